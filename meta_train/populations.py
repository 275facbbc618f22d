"""A learned optimizer over many runs that advance together, as the benchmark's sweeps do."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import vmap

from learned_opt import Checkpoint, UpdateRule, functional
from learned_opt.functional import Params
from learned_opt.rule import State

BLOCK_ELEMENTS = 2**17
"""Runs are advanced in one call until they hold this many weights: what is computed should stay in cache."""


class LearnedPopulation:
    """Advances all runs of a stack by one rule, each at its own learning rate.

    Args:
        checkpoint: The rule.
        params: Weights of all members, ``[P, ...]`` each; they change in place.
    """

    def __init__(self, checkpoint: Checkpoint, params: Params) -> None:
        rule = UpdateRule(checkpoint.config)
        self._params = params
        self._update = vmap(partial(_update, rule), in_dims=(None, 0, 0, 0, 0))
        first = {name: tensor[0] for name, tensor in params.items()}
        device = next(iter(first.values())).device
        self._meta = {name: tensor.to(device, torch.float32) for name, tensor in checkpoint.meta.items()}
        blank = functional.init_state(rule, first)
        members = len(next(iter(params.values())))
        size = max(1, BLOCK_ELEMENTS // max(1, sum(tensor.numel() for tensor in first.values())))
        self._blocks = [slice(start, min(start + size, members)) for start in range(0, members, size)]
        self._states: list[State] = [
            {
                key: value.expand(block.stop - block.start, *value.shape).clone()
                for key, value in blank.items()
            }
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
                self._meta, self._states[index], parts, params, rates[block]
            )
            for name, tensor in params.items():
                tensor.copy_(moved[name])


@dataclass(frozen=True)
class LearnedPopulationFactory:
    """Begins runs that advance together; it can be sent to another process.

    Args:
        checkpoint: The rule.
    """

    checkpoint: Checkpoint

    def __call__(self, params: Params, /, *, steps: int) -> LearnedPopulation:
        """Begin runs over stacked weights; the number of steps is not used."""
        return LearnedPopulation(self.checkpoint, params)


def _update(
    rule: UpdateRule, meta: Params, state: State, grads: Params, params: Params, lr: Tensor
) -> tuple[Params, State]:
    return functional.update(rule, meta, state, grads, params, lr=lr)
