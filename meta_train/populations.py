"""A learned optimizer over many runs that advance together, as the benchmark's sweeps do."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from learned_opt import Checkpoint, RuleConfig, UpdateRule, functional
from learned_opt.backends import Move, NativeUpdate
from learned_opt.backends.compiled import compiled_alone
from learned_opt.backends.native import Library
from learned_opt.functional import Params
from learned_opt.selection import State
from learned_opt.state import ParameterState, new_state
from meta_train.compiler import missing_for_compilation

BLOCK_ELEMENTS = 2**17
"""Runs are advanced in one call until they hold this many weights: what is computed should stay in cache."""
COMPILED_STEPS = 200
"""Runs of at least so many steps that hold more than a block of weights are worth a compilation."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Update = Callable[[Params, State, Params, Params, Tensor, Tensor], tuple[Params, State]]


class MappedPopulation:
    """Advances all runs of a stack by one mapped call of the rule, each at its own learning rate.

    Large stacks are advanced by one compiled function where the machine can compile, to rounding the same.

    Args:
        checkpoint: The rule.
        params: Weights of all members, ``[P, ...]`` each; they change in place.
        steps: Planned number of steps.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self, checkpoint: Checkpoint, params: Params, *, steps: int, weight_decay: float = 0.0
    ) -> None:
        first = {name: tensor[0] for name, tensor in params.items()}
        members = len(next(iter(params.values())))
        size = sum(tensor.numel() for tensor in first.values())
        device = next(iter(first.values())).device
        self.compiled = (
            members * size > BLOCK_ELEMENTS
            and steps >= COMPILED_STEPS
            and device.type == "cpu"
            and missing_for_compilation() is None
        )
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in params.items())
        self._update = _update_of(checkpoint.config, weight_decay, shapes if self.compiled else None)
        self._params = params
        self._total_steps = torch.tensor(float(steps), device=device)
        self._meta = {name: tensor.to(device, torch.float32) for name, tensor in checkpoint.meta.items()}
        count = members if self.compiled else max(1, BLOCK_ELEMENTS // max(1, size))
        self._blocks = [slice(start, min(start + count, members)) for start in range(0, members, count)]
        blank = functional.init_state(UpdateRule(checkpoint.config), first)
        self._states: list[State] = [
            {key: row.expand(block.stop - block.start, *row.shape).clone() for key, row in blank.items()}
            for block in self._blocks
        ]

    @torch.no_grad()
    def step(self, grads: Params, rates: Tensor, losses: Tensor) -> None:
        """Take one step of every member, as `LearnedOptimizer.step` would.

        Args:
            grads: Gradient of each tensor, ``[P, ...]``.
            rates: Learning rate of each member, ``[P]``.
            losses: Loss of each member, ``[P]``; unused.
        """
        for index, block in enumerate(self._blocks):
            params = {name: tensor[block] for name, tensor in self._params.items()}
            parts = {name: grads[name][block] for name in params}
            moved, self._states[index] = self._update(
                self._meta, self._states[index], parts, params, rates[block], self._total_steps
            )
            for name, tensor in params.items():
                tensor.copy_(moved[name])


class Begun(NamedTuple):
    """One tensor of one member of a stack.

    Attributes:
        param: The weights, a view.
        state: Of the rule.
        direction: Where the direction is written to that is yet to be made orthogonal; None where it is not.
    """

    param: Tensor
    state: ParameterState
    direction: Tensor | None


class NativePopulation:
    """Advances all runs of a stack by one call of the native step, each at its own learning rate.

    Args:
        checkpoint: The rule.
        params: Weights of all members on the CPU, ``[P, ...]`` each; they change in place.
        native: The native backend of that rule.
        library: Its compiled step.
        steps: Planned number of steps.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        params: Params,
        native: NativeUpdate,
        library: Library,
        *,
        steps: int,
        weight_decay: float = 0.0,
    ) -> None:
        self._native, self._library, self._steps = native, library, steps
        self._weight_decay = weight_decay
        self._meta = {name: tensor.float() for name, tensor in checkpoint.meta.items()}
        self._shaping = native.rule.shaping(self._meta)
        self._params = params
        orthogonal = native.rule.config.orthogonal
        self._directions = {
            name: torch.empty_like(tensor)
            for name, tensor in params.items()
            if orthogonal and tensor.ndim > 2
        }
        rows, more = native.rule.floats_per_parameter, native.rule.floats_per_tensor
        self._members = [
            [
                Begun(
                    tensor[index],
                    new_state(tensor[index], rows, torch.float32, statistics=more),
                    self._directions[name][index] if name in self._directions else None,
                )
                for name, tensor in params.items()
            ]
            for index in range(len(next(iter(params.values()))))
        ]

    @torch.no_grad()
    def step(self, grads: Params, rates: Tensor, losses: Tensor) -> None:
        """As `MappedPopulation.step`."""
        parts = zip(*(grads[name].contiguous().unbind() for name in self._params), strict=True)
        moves = [
            Move(
                param,
                grad,
                state,
                lr=rate,
                weight_decay=self._weight_decay,
                direction=direction,
                total_steps=self._steps,
            )
            for member, own, rate in zip(self._members, parts, rates.tolist(), strict=True)
            for (param, state, direction), grad in zip(member, own, strict=True)
        ]
        self._native.step(self._library, self._meta, moves)
        for place, name in enumerate(self._params):
            if name in self._directions:
                seconds = torch.stack([member[place].state["memory"][-1] for member in self._members])
                direction = vmap(self._shaping.__call__)(self._directions[name], seconds)
                each = rates.reshape(-1, *[1] * (direction.ndim - 1)).to(direction.dtype)
                if self._weight_decay:
                    live = grads[name].square().flatten(1).sum(1).isfinite().reshape(each.shape)
                    self._params[name].mul_(1 - each * self._weight_decay * live)
                self._params[name].sub_(each * direction)


@dataclass(frozen=True)
class LearnedPopulationFactory:
    """Begins runs that advance together; it can be sent to another process.

    Args:
        checkpoint: The rule.
        weight_decay: Decoupled weight decay.
    """

    checkpoint: Checkpoint
    weight_decay: float = 0.0

    def __call__(self, params: Params, /, *, steps: int) -> MappedPopulation | NativePopulation:
        """Begin runs over stacked weights, natively where the rule and the machine can."""
        native = NativeUpdate(UpdateRule(self.checkpoint.config), forced=False)
        on_cpu = all(tensor.device.type == "cpu" for tensor in params.values())
        library = native.library() if on_cpu else None
        if library is not None and all(tensor.dtype == torch.float32 for tensor in params.values()):
            return NativePopulation(
                self.checkpoint, params, native, library, steps=steps, weight_decay=self.weight_decay
            )
        return MappedPopulation(self.checkpoint, params, steps=steps, weight_decay=self.weight_decay)


@lru_cache(maxsize=32)
def _update_of(config: RuleConfig, weight_decay: float, shapes: Shapes | None) -> Update:
    """`functional.update` over members, compiled once in a process for stacks of given shapes, or eager."""
    rule = UpdateRule(config)

    def update(
        meta: Params, state: State, grads: Params, params: Params, lr: Tensor, total_steps: Tensor
    ) -> tuple[Params, State]:
        return functional.update(
            rule, meta, state, grads, params, lr=lr, weight_decay=weight_decay, total_steps=total_steps
        )

    over_members: Update = vmap(update, in_dims=(None, 0, 0, 0, 0, None))
    if shapes is None:
        return over_members
    return compiled_alone(over_members)
