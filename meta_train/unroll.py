"""A truncated unroll of a population of tasks under perturbed rules."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from learned_opt import functional
from learned_opt.backends.compiled import compiled_alone
from learned_opt.memory import Meta
from learned_opt.rule import UpdateRule
from learned_opt.selection import State
from tasks.base import Batch, Params, Task

InnerStep = Callable[
    [Meta, Params, State, Batch, Batch, Tensor, Tensor], tuple[Params, State, Tensor, Tensor]
]
EXPERT = "expert/"
"""Prefix of the expert's part of a member's state."""


@dataclass(frozen=True)
class Expert:
    """A rule to imitate.

    Attributes:
        rule: Its architecture.
        meta: Its meta-parameters.
    """

    rule: UpdateRule
    meta: Meta


class Unrolled(NamedTuple):
    """What ``T`` inner steps of all members gave.

    Attributes:
        params: Parameters after them.
        state: State after them.
        losses: Before each step on its batch, ``[T, *members]``.
        distances: From the expert's directions, ``[T, *members]``, 0 without one; see `distance`.
    """

    params: Params
    state: State
    losses: Tensor
    distances: Tensor


def inner_step(
    rule: UpdateRule, task: Task, expert: Expert | None = None, *, first_order: bool = False
) -> InnerStep:
    """One training step of one member: task gradient, rule, update.

    The function takes meta-parameters, parameters, state, a batch, a probe (a batch or nothing), a learning
    rate and the number of steps of the episode, and returns the next parameters and state, a loss and the
    distance from the expert.

    Args:
        rule: The rule that is trained.
        task: Whose loss is minimised.
        expert: Whom to measure the distance from.
        first_order: Take task gradients as constants when differentiating with respect to meta-parameters.
    """
    loss_gradient = grad_and_value(task.loss)

    def step(
        meta: Meta, params: Params, state: State, batch: Batch, probe: Batch, lr: Tensor, total: Tensor
    ) -> tuple[Params, State, Tensor, Tensor]:
        own, theirs = _split(state)
        grads, loss = loss_gradient(params, batch)
        flat_grads, flat_params = list(grads.values()), list(params.values())
        if first_order:
            flat_grads = [grad.detach() for grad in flat_grads]
        found, own = rule.update(meta, own, flat_grads, flat_params, total_steps=total)
        directions = functional.shaped(rule, meta, found, own)
        far = torch.zeros_like(loss)
        if expert is not None:
            wanted, theirs = expert.rule.update(
                expert.meta, theirs, flat_grads, flat_params, total_steps=total
            )
            far = distance(directions, functional.shaped(expert.rule, expert.meta, wanted, theirs))
        params = functional.move(params, directions, lr=lr)
        state = {**own, **{EXPERT + name: value for name, value in theirs.items()}}
        return params, state, task.loss(params, probe) if probe else loss, far

    return step


def distance(directions: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """``|d - e|^2 / (|d|^2 + |e|^2)`` over all tensors: 0 where equal, 1 at right angles, at most 2."""
    pairs = list(zip(directions, wanted, strict=True))
    squares = sum((d * d + e * e).sum() for d, e in pairs)
    difference = sum(((d - e) ** 2).sum() for d, e in pairs)
    return torch.as_tensor(difference / (squares + torch.finfo(directions[0].dtype).tiny))


def blank_state(rule: UpdateRule, params: Params, expert: Expert | None = None) -> State:
    """State of one member before its first step."""
    tensors = list(params.values())
    state = rule.init_state(tensors, pooled=True)
    if expert is not None:
        theirs = expert.rule.init_state(tensors, pooled=True)
        state |= {EXPERT + name: value for name, value in theirs.items()}
    return state


def paired_step(
    rule: UpdateRule,
    task: Task,
    *,
    compiled: bool,
    expert: Expert | None = None,
    first_order: bool = False,
) -> InnerStep:
    """`inner_step` for ``[2, P]`` members: signs by pairs; a pair shares its batch and learning rate.

    Meta-parameters, parameters and state have leading axes ``[2, P]``, or ``[1, P]`` without antithetic
    members; batches, learning rates and numbers of steps ``[P]``.
    """
    over_pairs = vmap(inner_step(rule, task, expert, first_order=first_order))
    over_signs = vmap(over_pairs, in_dims=(0, 0, 0, None, None, None, None))
    return _compile(over_signs, compiled=compiled)


def shared_step(rule: UpdateRule, task: Task, *, compiled: bool) -> InnerStep:
    """`inner_step` for ``[P]`` members that share one set of meta-parameters."""
    over_members = vmap(inner_step(rule, task), in_dims=(None, 0, 0, 0, 0, 0, 0))
    return _compile(over_members, compiled=compiled)


def _compile(step: InnerStep, *, compiled: bool) -> InnerStep:
    """Compile a step alone: of what a graph depends on, only its tensors may change from call to call."""
    if not compiled:
        return step
    return compiled_alone(step, guard_filter_fn=torch.compiler.keep_tensor_guards_unsafe)


def _split(state: State) -> tuple[State, State]:
    own = {name: value for name, value in state.items() if not name.startswith(EXPERT)}
    theirs = {name.removeprefix(EXPERT): value for name, value in state.items() if name.startswith(EXPERT)}
    return own, theirs


def unroll(
    step: InnerStep,
    meta: Meta,
    params: Params,
    state: State,
    batches: Batch,
    lrs: Tensor,
    *,
    total_steps: int | None = None,
) -> Unrolled:
    """Take ``T`` inner steps.

    Args:
        step: From `paired_step` or `shared_step`.
        meta: Meta-parameters as that step takes them.
        params: Parameters of every member.
        state: State of every member.
        batches: Tensors ``[T, P, ...]``.
        lrs: Learning rates, ``[T, P]``.
        total_steps: Of the whole episode; ``T`` by default.
    """
    losses, distances = [], []
    totals = torch.full_like(lrs[0], total_steps or len(lrs))
    for t in range(lrs.shape[0]):
        batch = tuple(part[t] for part in batches)
        params, state, loss, far = step(meta, params, state, batch, (), lrs[t], totals)
        losses.append(loss)
        distances.append(far)
    return Unrolled(params, state, torch.stack(losses), torch.stack(distances))


def learning_rates(peak: Tensor, cosine: Tensor, step: Tensor, horizon: Tensor, length: int) -> Tensor:
    """Learning rates of the next ``length`` steps, ``[length, P]``.

    Args:
        peak: Learning rate at the start of an episode, ``[P]``.
        cosine: True where it falls to 0 along a half cosine over the episode, else it is constant, ``[P]``.
        step: Steps already taken, ``[P]``.
        horizon: Steps of the whole episode, ``[P]``.
        length: Steps to come.
    """
    progress = (step + torch.arange(length)[:, None]) / horizon
    factor = 0.5 * (1 + torch.cos(pi * progress.clamp(0, 1)))
    return peak * torch.where(cosine, factor, 1.0)


def repeated(tensors: dict[str, Tensor], *leading: int) -> dict[str, Tensor]:
    """Copies of each tensor under new leading axes, ``[*leading, *shape]``."""
    return {name: value.expand(*leading, *value.shape).clone() for name, value in tensors.items()}


def stack_params(members: list[Params]) -> Params:
    """Stack the parameters of members of one shape, ``[P, ...]``."""
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}


def stack_batches(batches: list[Batch], dim: int = 0) -> Batch:
    """Stack the batches of members of one shape along a new axis.

    With ``dim=1``, what every member repeats along its first axis without a copy stays without one.
    """
    return tuple(_stack(parts, dim) for parts in zip(*batches, strict=True))


def _stack(parts: tuple[Tensor, ...], dim: int) -> Tensor:
    if dim == 1 and all(part.stride(0) == 0 for part in parts):
        once = torch.stack([part[0] for part in parts])
        return once.expand(len(parts[0]), *once.shape)
    return torch.stack(parts, dim=dim)
