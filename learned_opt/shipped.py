"""The learned optimizers that come with the package."""

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from learned_opt.checkpoint import load_checkpoint
from learned_opt.optimizer import LearnedOptimizer
from learned_opt.options import check_options, check_state_dtype
from learned_opt.rule import UpdateRule


class FLT(LearnedOptimizer):
    """The learned optimizer that ships with the package, ``flt-base``.

    Args:
        params: As for `LearnedOptimizer`, as everything that follows.
        lr: Learning rate, a float or a tensor of one element.
        weight_decay: Decoupled weight decay.
        maximize: Ascend.
        orthogonalize: Make the directions of matrices orthogonal.
        differentiable: Let autograd record the step.
        capturable: Say that the step may be captured into a CUDA graph.
        state_dtype: Of the memory, ``torch.float32`` or ``torch.bfloat16``.
        backend: How the rule is run, ``"eager"`` or ``"compiled"``.

    Raises:
        ValueError: As `LearnedOptimizer`.

    Example:
        >>> optimizer = FLT(model.parameters(), lr=1e-3, weight_decay=0.05)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
        orthogonalize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        state_dtype: torch.dtype = torch.float32,
        backend: str = "eager",
    ) -> None:
        check_options({"lr": lr, "weight_decay": weight_decay})
        check_state_dtype(state_dtype)
        checkpoint = load_checkpoint("flt-base")
        super().__init__(
            params,
            lr,
            weight_decay=weight_decay,
            maximize=maximize,
            orthogonalize=orthogonalize,
            differentiable=differentiable,
            capturable=capturable,
            state_dtype=state_dtype,
            rule=UpdateRule(checkpoint.config),
            meta=checkpoint.meta,
            backend=backend,
        )
        self.facts = checkpoint.facts
