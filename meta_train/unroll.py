"""A truncated unroll of a population of tasks under perturbed rules."""

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from learned_opt import functional
from learned_opt.backends.compiled import INDUCTOR_OPTIONS
from learned_opt.memory import Meta
from learned_opt.rule import State, UpdateRule
from tasks.base import Batch, Params, Task

InnerStep = Callable[[Meta, Params, State, Batch, Tensor], tuple[Params, State, Tensor]]


def inner_step(rule: UpdateRule, task: Task) -> InnerStep:
    """One training step of one member: task gradient, rule, update.

    The function takes meta-parameters, parameters, rule state, a batch and a learning rate, and returns the
    next parameters and state and the loss before the step.
    """
    loss_gradient = grad_and_value(task.loss)

    def step(
        meta: Meta, params: Params, state: State, batch: Batch, lr: Tensor
    ) -> tuple[Params, State, Tensor]:
        grads, loss = loss_gradient(params, batch)
        params, state = functional.update(rule, meta, state, grads, params, lr=lr)
        return params, state, loss

    return step


def paired_step(rule: UpdateRule, task: Task, *, compiled: bool) -> InnerStep:
    """`inner_step` for ``[2, P]`` members: signs by pairs; a pair shares its batch and learning rate.

    Meta-parameters, parameters and state have leading axes ``[2, P]``, batches and learning rates ``[P]``.
    """
    over_pairs = vmap(inner_step(rule, task))
    over_signs = vmap(over_pairs, in_dims=(0, 0, 0, None, None))
    return _compile(over_signs, compiled=compiled)


def shared_step(rule: UpdateRule, task: Task, *, compiled: bool) -> InnerStep:
    """`inner_step` for ``[P]`` members that share one set of meta-parameters."""
    return _compile(vmap(inner_step(rule, task), in_dims=(None, 0, 0, 0, 0)), compiled=compiled)


def _compile(step: InnerStep, *, compiled: bool) -> InnerStep:
    if not compiled:
        return step
    return torch.compile(step, dynamic=False, fullgraph=True, options=INDUCTOR_OPTIONS)


def unroll(
    step: InnerStep, meta: Meta, params: Params, state: State, batches: Batch, lrs: Tensor
) -> tuple[Params, State, Tensor]:
    """Take ``T`` inner steps.

    Args:
        step: From `paired_step` or `shared_step`.
        meta: Meta-parameters as that step takes them.
        params: Parameters of every member.
        state: Rule state of every member.
        batches: Tensors ``[T, P, ...]``.
        lrs: Learning rates, ``[T, P]``.

    Returns:
        Parameters and state after the steps, and the losses before each, ``[T, *members]``.
    """
    losses = []
    with torch.no_grad():
        for t in range(lrs.shape[0]):
            params, state, loss = step(meta, params, state, tuple(batch[t] for batch in batches), lrs[t])
            losses.append(loss)
    return params, state, torch.stack(losses)


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
