"""The `torch.optim` contract around an update rule."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any, overload
from warnings import warn

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from learned_opt.backends import get_backend
from learned_opt.checkpoint import load_checkpoint, save_checkpoint
from learned_opt.layout import Layout
from learned_opt.memory import Meta
from learned_opt.names import unknown_name
from learned_opt.rule import UpdateRule
from learned_opt.state import MEMORY_DTYPE, Sealed, check_state, copy_state, new_state, pack, unpack_into
from learned_opt.step import Group, Member, apply, descended, moving, packs

SKIPPED = (
    "a gradient was not finite: its tensor and state were left as they were for this step; "
    "this is said once, skipped_gradients() counts"
)

ANNOTATIONS = ("params", "param_names", "name", "group_name", "initial_lr", "lr_scale")
"""What a parameter group may hold beside this class's options: marks that schedulers and models leave."""


class LearnedOptimizer(Optimizer):
    """A learned update rule where Adam stood.

    ``p -= lr * direction``, with the direction in Adam's units, and decoupled weight decay
    ``p *= 1 - lr * weight_decay`` as in AdamW. A tensor whose gradient is not finite is left as it is for
    that step; see `skipped_gradients`.

    State of each parameter: ``memory``, ``[S, *shape]`` float32 whatever the parameter's dtype, and the
    scalars ``step`` and ``skipped``. It is there from the start.

    Args:
        params: Tensors, named tensors or parameter groups; a group may have its own ``lr``, ``weight_decay``
            and ``maximize``.
        lr: Learning rate, a float or a tensor of one element.
        weight_decay: Decoupled weight decay.
        maximize: Ascend.
        rule: The architecture.
        meta: Its meta-parameters. They are copied.
        backend: How the rule is run, ``"eager"`` or ``"compiled"``.

    Raises:
        ValueError: If an option is negative, not a number or unknown, or the meta-parameters are not the
            rule's.

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
        return LearnedOptimizer(
            params, lr, rule=UpdateRule(checkpoint.config), meta=checkpoint.meta, **options
        )

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
        members = moving(self.param_groups)
        self._refuse_unsupported(members)
        self._fill_state(member.param for member in members)
        skipped = [self._advance(members) for members in packs(members)]
        if any(skipped):
            self._warned_of_skips = True
            warn(SKIPPED, stacklevel=4)
        return loss

    def skipped_gradients(self) -> dict[str | int, int]:
        """How often each tensor was left as it was because its gradient was not finite.

        Returns:
            Counts above zero, by the parameter's name, or by its index where there are no names.
        """
        known = ((name, self.state[param]) for name, param in self._named() if param in self.state)
        counts = ((name, int(state["skipped"])) for name, state in known)
        return {name: count for name, count in counts if count}

    def add_param_group(self, param_group: Group) -> None:
        """Add a parameter group, with state from the start; see `torch.optim.Optimizer.add_param_group`.

        Raises:
            ValueError: If an option is negative, not a number or unknown; nothing has been changed then.
        """
        if isinstance(param_group, dict):
            for option in sorted(param_group.keys() - self.defaults.keys() - set(ANNOTATIONS)):
                raise ValueError(unknown_name("option of a parameter group", option, self.defaults))
            _check_options(param_group)
        super().add_param_group(param_group)
        self._fill_state(_trainable(self.param_groups[-1]))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave; the memory keeps its bits whatever the parameters' dtype.

        Raises:
            ValueError: If it is of another rule or another model; nothing has been changed then.
        """

        def seal(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
            self._check_loadable(incoming)
            return {**incoming, "state": {key: Sealed(value) for key, value in incoming["state"].items()}}

        handle = self.register_load_state_dict_pre_hook(seal)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, "meta": self.meta, "backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        del self.defaults["differentiable"]  # torch puts it there, and every new group would take it
        if "rule" in state:
            self._prepare()
        for param, value in self.state.items():
            if isinstance(value, Sealed):
                known = isinstance(param, Tensor) and value.value
                self.state[param] = copy_state(value.value, param) if known else value.value
        for group in self.param_groups:
            for option, default in self.defaults.items():
                group.setdefault(option, default)
            self._fill_state(_trainable(group))

    def _prepare(self) -> None:
        self._update = get_backend(self.backend)(self.rule)
        self._placed: dict[torch.device, Meta] = {}
        self._warned_of_skips = False

    def _named(self) -> Iterator[tuple[str | int, Tensor]]:
        index = 0
        for group in self.param_groups:
            names = group.get("param_names", range(index, index + len(group["params"])))
            yield from zip(names, group["params"], strict=True)
            index += len(group["params"])

    def _name(self, wanted: Tensor) -> str:
        name = next(name for name, param in self._named() if param is wanted)
        return f"parameter {name!r} of shape {tuple(wanted.shape)}"

    def _fill_state(self, params: Iterable[Tensor]) -> None:
        for param in params:
            if not self.state[param]:
                self.state[param] = new_state(param, self.rule.floats_per_parameter)

    def _check_loadable(self, state_dict: dict[str, Any]) -> None:
        for group in state_dict["param_groups"]:
            _check_options(group)
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        for key, (_, param) in zip(keys, self._named(), strict=False):
            if state := state_dict["state"].get(key):
                check_state(state, param, self.rule.floats_per_parameter, self._name(param))

    def _refuse_unsupported(self, members: Iterable[Member]) -> None:
        for param, grad, _ in members:
            kind = "sparse" if grad.layout != torch.strided else "complex" if grad.is_complex() else None
            if kind:
                raise RuntimeError(
                    f"{type(self).__name__} does not support {kind} gradients: {self._name(param)}"
                )

    def _advance(self, members: list[Member]) -> bool:
        """Update these parameters of one device; say whether a gradient is known to have been skipped."""
        params = [member.param for member in members]
        states = [self.state[param] for param in params]
        before, device = pack(states, params), params[0].device
        with torch.autocast(device.type, enabled=False):
            directions, after = self._update(self._meta_on(device), before, descended(members), params)
        unpack_into(states, after, Layout.of(params))
        skipped = after["skipped"] - before["skipped"]
        apply(members, directions, live=1 - skipped)
        return device.type == "cpu" and not self._warned_of_skips and bool(skipped.any())

    def _meta_on(self, device: torch.device) -> Meta:
        if device not in self._placed:
            self._placed[device] = {
                name: tensor.to(device, MEMORY_DTYPE) for name, tensor in self.meta.items()
            }
        return self._placed[device]


class FLT(LearnedOptimizer):
    """The learned optimizer that ships with the package, ``flt-base``.

    Args:
        params: As for `LearnedOptimizer`.
        lr: Learning rate, a float or a tensor of one element.
        weight_decay: Decoupled weight decay.
        maximize: Ascend.
        backend: How the rule is run, ``"eager"`` or ``"compiled"``.

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
        backend: str = "eager",
    ) -> None:
        _check_options({"lr": lr, "weight_decay": weight_decay})
        checkpoint = load_checkpoint("flt-base")
        super().__init__(
            params,
            lr,
            weight_decay=weight_decay,
            maximize=maximize,
            rule=UpdateRule(checkpoint.config),
            meta=checkpoint.meta,
            backend=backend,
        )


def _trainable(group: Group) -> Iterator[Tensor]:
    return (param for param in group["params"] if param.requires_grad and not param.is_complex())


def _check_options(options: Mapping[str, Any]) -> None:
    lr, weight_decay = options.get("lr", 0.0), options.get("weight_decay", 0.0)
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"Tensor lr must be 1-element; got shape {tuple(lr.shape)}")
    if not 0.0 <= lr < inf:
        raise ValueError(f"Invalid learning rate: lr is {lr}; expected a finite number of at least 0")
    if not 0.0 <= weight_decay < inf:
        raise ValueError(
            f"Invalid weight_decay value: {weight_decay}; expected a finite number of at least 0"
        )
