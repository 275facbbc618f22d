"""The `torch.optim` contract around an update rule."""

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from math import inf
from pathlib import Path
from typing import Any, Self, overload
from warnings import warn

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from learned_opt.backends import get_backend
from learned_opt.checkpoint import load_checkpoint, save_checkpoint
from learned_opt.layout import Layout
from learned_opt.memory import Meta
from learned_opt.names import unknown_name
from learned_opt.resume import check_loadable, released, sealed
from learned_opt.rule import UpdateRule

MEMORY_DTYPE = torch.float32
PACK_ELEMENTS = 2**16
"""Tensors are updated together until they hold this many elements; a larger one goes alone."""

ANNOTATIONS = ("params", "param_names", "name", "group_name", "initial_lr", "lr_scale", "differentiable")
"""What a parameter group may hold beside the options of this class: marks that schedulers and models leave."""

Group = dict[str, Any]


class LearnedOptimizer(Optimizer):
    """A learned update rule where Adam stood.

    ``p -= lr * direction``, with the direction in Adam's units (its elements are about 1 in size at first), and
    decoupled weight decay ``p *= 1 - lr * weight_decay`` as in AdamW. A tensor whose gradient is not finite is left
    as it is for that step; see `skipped_gradients`.

    State of each parameter: ``memory``, ``[S, *shape]`` float32 whatever the parameter's dtype, and the scalars
    ``step`` and ``skipped``. It is there from the start.

    Args:
        params: Tensors, named tensors or parameter groups; a group may have its own ``lr``, ``weight_decay`` and
            ``maximize``.
        lr: Learning rate, a float or a tensor of one element.
        weight_decay: Decoupled weight decay.
        maximize: Ascend.
        rule: The architecture.
        meta: Its meta-parameters. They are copied.
        backend: How the rule is run, ``"eager"`` or ``"compiled"``.

    Raises:
        ValueError: If an option is negative, not a number or unknown, or the meta-parameters are not the rule's.

    Example:
        >>> optimizer = LearnedOptimizer.from_pretrained("runs/mine", model.parameters(), lr=1e-3)
        >>> loss.backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
        rule: UpdateRule,
        meta: Meta,
        backend: str = "eager",
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "maximize": maximize}
        _check_options(defaults)
        rule.check_meta(meta)
        self.rule, self.backend = rule, backend
        self.meta = {name: tensor.detach().clone() for name, tensor in meta.items()}
        self._prepare()
        super().__init__(params, defaults)

    @staticmethod
    def from_pretrained(
        name_or_folder: str | Path, params: ParamsT, lr: float | Tensor = 1e-3, **options: Any
    ) -> "LearnedOptimizer":
        """An optimizer with the weights of a shipped rule, by name, or of a saved one, by folder.

        Raises:
            CheckpointError: If there is no such checkpoint, or it cannot be used.
            ValueError: As the constructor.
        """
        _check_options({"lr": lr, **options})
        checkpoint = load_checkpoint(name_or_folder)
        return LearnedOptimizer(params, lr, rule=UpdateRule(checkpoint.config), meta=checkpoint.meta, **options)

    def save_pretrained(self, folder: str | Path, facts: Mapping[str, Any] | None = None) -> None:
        """Save the rule and its weights, without the state; see `save_checkpoint`."""
        save_checkpoint(folder, self.rule.config, self.meta, facts)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient.

        Args:
            closure: Computes the loss and its gradients anew; called once, first.

        Returns:
            What the closure returns.

        Raises:
            RuntimeError: If a gradient is sparse or complex; nothing has been changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [
            (group, param) for group in self.param_groups for param in group["params"] if param.grad is not None
        ]
        self._refuse_unsupported(moving)
        for pack in _packs(moving):
            self._advance(pack)
        self._report_first_skip()
        return loss

    def skipped_gradients(self) -> dict[str | int, int]:
        """How often each tensor was left as it was because its gradient was not finite.

        Returns:
            Counts above zero, by the parameter's name, or by its index where parameters were given without names.
        """
        counts = ((name, int(self.state[param]["skipped"])) for name, param in self._named() if self.state[param])
        return {name: count for name, count in counts if count}

    def add_param_group(self, param_group: Group) -> None:
        """Add a parameter group, with state from the start; see `torch.optim.Optimizer.add_param_group`.

        Raises:
            ValueError: If an option is negative, not a number or unknown; nothing has been changed then.
        """
        if isinstance(param_group, dict):
            for option in param_group.keys() - self.defaults.keys() - set(ANNOTATIONS):
                raise ValueError(unknown_name("option of a parameter group", option, self.defaults))
            _check_options(param_group)
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:
            if param.requires_grad and not param.is_complex():
                self._init_state(param)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave; the memory keeps its bits whatever the parameters' dtype.

        Raises:
            ValueError: If it is of another rule or another model; nothing has been changed then.
        """

        def seal(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
            return sealed(incoming)
            ...

        raise NotImplementedError
