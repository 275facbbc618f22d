"""Learned optimizers with the weights of a saved rule, or of the one that comes with the package."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from learned_opt.checkpoint import load_checkpoint
from learned_opt.optimizer import LearnedOptimizer
from learned_opt.options import check_options
from learned_opt.rule import UpdateRule


class PretrainedOptimizer(LearnedOptimizer):
    """`LearnedOptimizer.from_pretrained` as a class, for whatever wants a class and keyword arguments.

    Args:
        params: As for `LearnedOptimizer`.
        lr: Learning rate, a float or a tensor of one element; that which the rule is meant for if None.
        name_or_folder: A shipped rule, or the folder of a saved one.
        options: As for `LearnedOptimizer`.

    Raises:
        CheckpointError: If there is no such rule, or it cannot be used.
        ValueError: As `LearnedOptimizer`.

    Example:
        >>> options = {"name_or_folder": "runs/mine", "lr": 1e-3}
        >>> trainer = transformers.Trainer(model, optimizer_cls_and_kwargs=(PretrainedOptimizer, options))
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        name_or_folder: str | Path,
        **options: Any,
    ) -> None:
        given = {"lr": lr, **options}
        check_options({option: value for option, value in given.items() if value is not None})
        checkpoint = load_checkpoint(name_or_folder)
        rule = UpdateRule(checkpoint.config)
        super().__init__(params, lr, rule=rule, meta=checkpoint.meta, **options)
        self.facts = checkpoint.facts


class FLT(PretrainedOptimizer):
    """The learned optimizer that ships with the package, ``flt-base``.

    Args:
        params: As for `LearnedOptimizer`, as everything that follows.
        lr: Learning rate, a float or a tensor of one element; 2e-3, which the rule is meant for, if None.
        weight_decay: Decoupled weight decay.
        maximize: Ascend.
        orthogonalize: Make the directions of matrices orthogonal, as the rule is meant to; without it a step
            saves some matrix products, and learns less.
        differentiable: Let autograd record the step.
        capturable: Say that the step may be captured into a CUDA graph.
        state_dtype: Of the memory, ``torch.float32`` or ``torch.bfloat16``.
        backend: How the rule is run, ``"auto"``, ``"native"``, ``"triton"``, ``"eager"`` or ``"compiled"``.

    Raises:
        ValueError: As `LearnedOptimizer`.

    Example:
        >>> optimizer = FLT(model.parameters(), lr=1e-3, weight_decay=0.05)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
        orthogonalize: bool | None = None,
        differentiable: bool = False,
        capturable: bool = False,
        state_dtype: torch.dtype = torch.float32,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            params,
            lr,
            name_or_folder="flt-base",
            weight_decay=weight_decay,
            maximize=maximize,
            orthogonalize=orthogonalize,
            differentiable=differentiable,
            capturable=capturable,
            state_dtype=state_dtype,
            backend=backend,
        )
