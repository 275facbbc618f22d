"""Celo over many runs that advance together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from tasks.benchmark.contestants.celo.features import FEATURES, GRADIENT_LIMIT, Moments, first_moments
from tasks.benchmark.contestants.celo.optimizer import move, published_view
from tasks.benchmark.contestants.celo.schedule import ScheduleState, advance, first_state
from tasks.benchmark.contestants.celo.weights import CeloWeights

BLOCK_ELEMENTS = 2**22
"""Members of a tensor are advanced in one call until they have this many features, for the cache's sake."""


class CeloPopulation:
    """Advances all runs of a stack as `Celo` does each.

    Args:
        weights: What `read_weights` gave.
        params: Weights of all members, ``[P, ...]`` each, float32; they change in place.
        steps: Planned number of steps.
    """

    def __init__(self, weights: CeloWeights, params: dict[str, Tensor], *, steps: int) -> None:
        tensors = list(params.values())
        members = len(tensors[0])
        self._weights, self._params, self._steps = weights.to(tensors[0].device), params, steps
        self._done = 0
        start = first_state(self._weights)
        self._schedule = tuple(
            each.expand(members, *each.shape)
            for each in (start.means, start.lowest, start.hidden, start.cell)
        )
        self._moments: dict[str, Moments] = {}
        for name, tensor in params.items():
            blank = first_moments(published_view(name, tensor[0]))
            self._moments[name] = {
                key: value.expand(members, *value.shape).clone() for key, value in blank.items()
            }

    @torch.no_grad()
    def step(self, grads: dict[str, Tensor], rates: Tensor, losses: Tensor) -> None:
        """Take one step of every member, as `Celo.step` would.

        Args:
            grads: Gradient of each tensor, ``[P, ...]``.
            rates: Learning rate of each member, ``[P]``.
            losses: Loss of each member before the step, ``[P]``.
        """
        *self._schedule, paces = vmap(self._advance)(losses, *self._schedule)  # type: ignore[assignment]
        self._done += 1
        paces = paces * rates[:, None]
        for name, tensor in self._params.items():
            size = max(1, BLOCK_ELEMENTS // (FEATURES * max(1, tensor[0].numel())))
            for start in range(0, len(tensor), size):
                block = slice(start, start + size)
                moments = {key: value[block] for key, value in self._moments[name].items()}
                vmap(lambda *parts, name=name: self._move(name, *parts))(
                    tensor[block], grads[name][block], moments, paces[block]
                )

    def _advance(
        self, loss: Tensor, means: Tensor, lowest: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, ...]:
        """One member's schedule."""
        state = ScheduleState(self._done, means, lowest, hidden, cell)
        state, rate = advance(state, loss, steps=self._steps, weights=self._weights)
        return state.means, state.lowest, state.hidden, state.cell, rate

    def _move(self, name: str, parameter: Tensor, gradient: Tensor, moments: Moments, rate: Tensor) -> Tensor:
        """One tensor of one member, in place; what is returned says nothing."""
        gradient = published_view(name, gradient).clamp(-GRADIENT_LIMIT, GRADIENT_LIMIT)
        move(published_view(name, parameter), gradient, moments, rate, self._weights)
        return rate


@dataclass(frozen=True)
class CeloPopulationFactory:
    """Begins runs that advance together; it can be sent to another process.

    Args:
        weights: What `read_weights` gave.
    """

    weights: CeloWeights

    def __call__(self, params: dict[str, Tensor], /, *, steps: int) -> CeloPopulation:
        """Begin runs over stacked weights."""
        return CeloPopulation(self.weights, params, steps=steps)
