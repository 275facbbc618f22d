"""The `torch.optim` contract around an update rule."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, overload
from warnings import warn

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import Optimizer, ParamsT

from learned_opt.backends import get_backend, in_place
from learned_opt.checkpoint import Checkpoint, save_checkpoint
from learned_opt.fused_step import advance_in_place
from learned_opt.identity import check_marks, mark, rule_id
from learned_opt.members import Group, Member, moving, packs
from learned_opt.memory import Meta
from learned_opt.options import check_group, check_options, check_total_steps
from learned_opt.orthogonal import Shaping
from learned_opt.rule import UpdateRule
from learned_opt.sharding import local
from learned_opt.sharing import push_to_hub
from learned_opt.state import COMPUTE_DTYPE, Sealed, check_state, copy_state, new_state
from learned_opt.step import advance, advance_differentiably

SKIPPED = (
    "a gradient was not finite: its tensor and state were left as they were for this step; "
    "this is said once, skipped_gradients() counts"
)


class LearnedOptimizer(Optimizer):
    """A learned update rule where Adam stood.

    ``p -= lr * direction``, with the direction in Adam's units, and decoupled weight decay
    ``p *= 1 - lr * weight_decay`` as in AdamW. A tensor whose gradient is not finite is left as it is for
    that step; see `skipped_gradients`.

    State of each parameter: ``memory``, ``[S, *shape]``, and the scalars ``step`` and ``skipped``, float32
    whatever the parameter's dtype. It is there from the start; a lazy parameter's as soon as that has a
    shape. That of a DTensor is cut as the parameter is, and statistics of a tensor are over the whole of it,
    so that a sharded run equals an unsharded one.

    Args:
        params: Tensors, named tensors or parameter groups; a group may have its own value of the options
            from ``lr`` to ``total_steps``.
        lr: Learning rate, a float or a tensor of one element; that of the rule's configuration if None.
        weight_decay: Decoupled weight decay.
        maximize: Ascend.
        orthogonalize: Make the direction of every matrix, and of what has more axes, orthogonal at an
            unchanged root mean square; see `learned_opt.orthogonal`. If None, as the rule's configuration
            says. Turn it off for embeddings, in a group of their own.
        total_steps: How many steps there will be, for a rule that goes by it; each tensor counts its own.
            Past them the rule does as at their end.
        differentiable: Let autograd record the step, of all groups. Parameters must then not be leaves, and
            gradients may carry a graph; `learned_opt.functional` is the same without mutation.
        capturable: Say that the step may be captured into a CUDA graph. It never waits for the device; give
            ``lr`` as a tensor if it is to change between replays.
        state_dtype: Of the memory, ``torch.float32``, or ``torch.bfloat16`` to halve it: it is then rounded
            stochastically, to the same bits in every run.
        rule: The architecture.
        meta: Its meta-parameters. They are copied.
        backend: How the rule is run: ``"native"``, a step in C++ on the CPU that is compiled at first use;
            ``"triton"``, kernels on a CUDA device; ``"eager"``; ``"compiled"``, by `torch.compile`; or
            ``"auto"``, by the first two where that can be and else eagerly.

    Attributes:
        facts: How the rule was meta-trained, where it was loaded; `save_pretrained` passes them on.

    Raises:
        ValueError: If an option is negative, not a number or unknown, a parameter stands twice, the
            meta-parameters are not the rule's, or ``total_steps`` is missing or given in vain.

    Example:
        >>> optimizer = LearnedOptimizer.from_pretrained("runs/mine", model.parameters(), lr=1e-3)
        >>> loss.backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
        orthogonalize: bool | None = None,
        total_steps: int | None = None,
        differentiable: bool = False,
        capturable: bool = False,
        state_dtype: torch.dtype = torch.float32,
        rule: UpdateRule,
        meta: Meta,
        backend: str = "auto",
    ) -> None:
        defaults = {
            "lr": rule.config.default_lr if lr is None else lr,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "orthogonalize": rule.config.orthogonal if orthogonalize is None else orthogonalize,
            "total_steps": total_steps,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        check_options({**defaults, "state_dtype": state_dtype})
        rule.check_meta(meta)
        self.rule, self.backend, self.state_dtype = rule, backend, state_dtype
        self.meta = {name: tensor.detach().clone() for name, tensor in meta.items()}
        self.facts: dict[str, Any] = {}
        self._prepare()
        super().__init__(params, defaults)

    @staticmethod
    def from_pretrained(
        name_or_folder: str | Path, params: ParamsT, lr: float | Tensor | None = None, **options: Any
    ) -> "LearnedOptimizer":
        """An optimizer with the weights of a shipped rule, by name, or of a saved one, by folder.

        Raises:
            CheckpointError: If there is no such checkpoint, or it cannot be used.
            ValueError: As the constructor.
        """
        from learned_opt.pretrained import PretrainedOptimizer  # which is made of this class

        return PretrainedOptimizer(params, lr, name_or_folder=name_or_folder, **options)

    def save_pretrained(self, folder: str | Path, facts: Mapping[str, Any] | None = None) -> None:
        """Save the rule and its weights, without the state; see `save_checkpoint`.

        Args:
            folder: Made if need be.
            facts: How it was meta-trained; by default what was known when the rule was loaded.
        """
        save_checkpoint(folder, self.rule.config, self.meta, self.facts if facts is None else facts)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the rule and its weights; see `learned_opt.sharing.push_to_hub`."""
        return push_to_hub(Checkpoint(self.rule.config, self.meta, self.facts), repo_id, **options)

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
            RuntimeError: If a gradient is sparse or complex, or a parameter has taken another shape than its
                gradient or state; nothing has been changed then.
        """
        self._accelerator_graph_capture_health_check()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        members = moving(self.param_groups)
        self._refuse_unsupported(members)
        self._fill_state(member.param for member in members)
        self._refuse_other_shapes(members)
        left, skipped_in_place = self._advance_in_place(members)
        with torch.enable_grad() if self.defaults["differentiable"] else nullcontext():
            skipped = [skipped_in_place, *(self._advance(run) for run in packs(left))]
        if any(skipped):
            self._warned_of_skips = True
            warn(SKIPPED, stacklevel=_callers_level())
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
            ValueError: If an option is negative, not a number or unknown, or a parameter stands twice;
                nothing has been changed then.
        """
        if isinstance(param_group, dict):
            if isinstance(param_group.get("params"), Iterator):
                param_group["params"] = list(param_group["params"])
            check_group(param_group, self.defaults, self.param_groups)
            total_steps = param_group.get("total_steps", self.defaults["total_steps"])
            check_total_steps(total_steps, wanted=self.rule.config.progress)
        super().add_param_group(param_group)
        mark(self.param_groups[-1], self._rule_id)
        try:
            self._fill_state(_trainable(self.param_groups[-1]))
        except Exception:
            for param in self.param_groups.pop()["params"]:
                self.state.pop(param, None)
            raise

    def state_dict(self) -> dict[str, Any]:
        """As `torch.optim.Optimizer.state_dict`; groups are marked with the rule and the format.

        State of tensors that are in no group any more is left out.
        """
        held, members = self.state, {param for group in self.param_groups for param in group["params"]}
        self._fill_state(param for group in self.param_groups for param in _trainable(group))
        known = {key: value for key, value in held.items() if not isinstance(key, Tensor) or key in members}
        self.state = defaultdict(dict, known)
        try:
            return super().state_dict()
        finally:
            self.state = held

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave; the memory keeps its bits whatever the parameters' dtype.

        Raises:
            ValueError: If it is of another rule, another model or a newer format; nothing has been changed
                then.
        """

        def seal(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
            self._check_loadable(incoming)
            whole = {"differentiable": self.defaults["differentiable"]}
            groups = [group | whole for group in incoming["param_groups"]]
            states = {key: Sealed(value) for key, value in incoming["state"].items()}
            return {**incoming, "param_groups": groups, "state": states}

        handle = self.register_load_state_dict_pre_hook(seal)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        ours = ("rule", "meta", "facts", "backend", "state_dtype")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in ours}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "rule" in state:
            self._prepare()
        for param, value in self.state.items():
            if isinstance(value, Sealed):
                known = isinstance(param, Tensor) and value.value
                self.state[param] = copy_state(value.value, param, self.state_dtype) if known else value.value
        for group in self.param_groups:
            for option, default in self.defaults.items():
                group.setdefault(option, default)
            mark(group, self._rule_id)
            self._fill_state(_trainable(group))

    def _prepare(self) -> None:
        self._rule_id = rule_id(self.rule.config, self.meta)
        self._update = get_backend(self.backend)(self.rule)
        self._placed: dict[torch.device, Meta] = {}
        self._shapings: dict[torch.device, Shaping] = {}
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
            held, device = self.state[param], local(param).device
            if not held or (held["step"].is_meta and device.type != "meta"):
                rule = self.rule
                self.state[param] = new_state(
                    param, rule.floats_per_parameter, self.state_dtype, statistics=rule.floats_per_tensor
                )
            elif local(held["memory"]).device != device:  # the model was moved after the optimizer was made
                self.state[param] = copy_state(held, param, self.state_dtype)
            self._place(device)

    def _check_loadable(self, state_dict: dict[str, Any]) -> None:
        for group in state_dict["param_groups"]:
            check_marks(group, self._rule_id)
            check_options(group)
            check_total_steps(group.get("total_steps"), wanted=self.rule.config.progress)
        rows, statistics = self.rule.floats_per_parameter, self.rule.floats_per_tensor
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        for key, (_, param) in zip(keys, self._named(), strict=False):
            if state := state_dict["state"].get(key):
                check_state(state, param, rows, self._name(param), statistics=statistics)

    def _refuse_unsupported(self, members: Iterable[Member]) -> None:
        for param, grad, _ in members:
            if self.defaults["differentiable"] and isinstance(param, DTensor):
                raise RuntimeError(f"differentiable is not supported for DTensors: {self._name(param)}")
            kind = "sparse" if grad.layout != torch.strided else "complex" if grad.is_complex() else None
            if kind:
                raise RuntimeError(
                    f"{type(self).__name__} does not support {kind} gradients: {self._name(param)}"
                )

    def _refuse_other_shapes(self, members: Iterable[Member]) -> None:
        for param, grad, _ in members:
            for name, shape in (("gradient", grad.shape), ("state", self.state[param]["memory"].shape[1:])):
                if shape != param.shape:
                    raise RuntimeError(
                        f"the {name} of {self._name(param)} is for the shape {tuple(shape)}: after a "
                        "parameter has taken another shape, find its gradient and make the optimizer anew"
                    )

    def _advance_in_place(self, members: list[Member]) -> tuple[list[Member], bool]:
        """Update what fused steps take; give the rest, and whether a gradient was skipped."""
        if self.defaults["differentiable"] or torch.compiler.is_compiling():
            return members, False
        cpu, skipped = torch.device("cpu"), False
        for fused in in_place(self._update):
            if fused.forced or any(param.device.type == fused.device_type for param, *_ in members):
                self._place(cpu)
                states = [self.state[member.param] for member in members]
                members, found = advance_in_place(members, states, self._placed[cpu], fused, self._shapings)
                skipped = skipped or found
        return members, skipped and not self._warned_of_skips

    def _advance(self, members: list[Member]) -> bool:
        """Update these parameters of one device; say whether a gradient is known to have been skipped."""
        states = [self.state[member.param] for member in members]
        device = local(members[0].param).device
        meta = self._placed[device]
        if self.defaults["differentiable"]:
            skipped = advance_differentiably(members, states, meta, self.rule.update, self._shapings)
        else:
            skipped = advance(members, states, meta, self._update, self._shapings)
        asking = device.type == "cpu" and not self._warned_of_skips and not torch.compiler.is_compiling()
        return asking and bool(skipped.any())

    def _place(self, device: torch.device) -> None:
        if device not in self._placed:
            self._placed[device] = {
                name: tensor.to(device, COMPUTE_DTYPE) for name, tensor in self.meta.items()
            }
            self._shapings[device] = self.rule.shaping(self._placed[device])


def _callers_level() -> int:
    """Of a warning in `LearnedOptimizer.step`: that of its caller, past what torch wraps it in."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith("torch."):
        level, frame = level + 1, frame.f_back
    return level


def _trainable(group: Group) -> Iterator[Tensor]:
    known = (param for param in group["params"] if not is_lazy(param))
    return (param for param in known if param.requires_grad and not param.is_complex())
