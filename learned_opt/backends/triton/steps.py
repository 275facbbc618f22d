"""Steps of a rule over tensors of whatever kinds, by kernels of Triton."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from learned_opt.backends.in_place import Move, changed
from learned_opt.backends.recipe import Recipe, Sizes
from learned_opt.backends.triton.batch import WARPS, Batch, Kind, Launch
from learned_opt.backends.triton.numbers import Numbers, numbers_of

WAITING_ELEMENTS = 2**24
"""Tensors are taken together until so many of their directions, 64 MiB, wait for their tensors' gains."""
BATCHES = 64
"""Sets of shapes whose tables are kept on the device."""
RECIPES = 2
"""Rules whose numbers are kept: that of matrices and that of vectors."""


class Steps:
    """Kernels of one architecture, and what they were last given.

    Args:
        sizes: Of the rule.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._batches: OrderedDict[Any, Batch] = OrderedDict()
        self._captured: list[Any] = []
        self._numbers: OrderedDict[int, tuple[Recipe, Numbers]] = OrderedDict()

    def step(self, recipe: Recipe, moves: Sequence[Move]) -> None:
        """Update tensors in place; nothing waits for the device."""
        numbers = self._numbers_of(recipe)
        for kind, fellows in together(moves):
            with torch.cuda.device(kind.device) if kind.device.type == "cuda" else nullcontext():
                for launch in self._launches(numbers, kind, fellows):
                    run(launch)
        torch.autograd.graph.increment_version(changed(moves))

    def _numbers_of(self, recipe: Recipe) -> Numbers:
        known = self._numbers.pop(id(recipe), None) or (recipe, numbers_of(recipe, self.sizes))
        self._numbers[id(recipe)] = known
        if len(self._numbers) > RECIPES:
            self._numbers.popitem(last=False)
        return known[1]

    def _launches(self, numbers: Numbers, kind: Kind, moves: list[Move]) -> Iterator[Launch]:
        captured = capturing(kind.device)
        batch = self._batch(kind, tuple(tuple(move.param.shape) for move in moves), keep=not captured)
        table = batch.table(moves, keep=not captured)
        if captured:
            self._captured.append((batch, table))
        return batch.launches(numbers, table, table.options(moves))

    def _batch(self, kind: Kind, shapes: tuple[tuple[int, ...], ...], *, keep: bool) -> Batch:
        key = (kind, shapes)
        known = self._batches.pop(key, None)
        batch = known or Batch(kind, shapes, self.sizes)
        if known or keep:
            self._batches[key] = batch
        if len(self._batches) > BATCHES:
            self._batches.popitem(last=False)
        return batch


def capturing(device: torch.device) -> bool:
    """Whether what is started now is captured into a CUDA graph, to be done when that is replayed."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def run(launch: Launch) -> None:
    """Start a kernel, if there is anything for it to do."""
    if launch.programs:
        launch.kernel[(launch.programs,)](**launch.arguments, num_warps=WARPS)


def together(moves: Sequence[Move]) -> Iterator[tuple[Kind, list[Move]]]:
    """Cut into runs of one kind that are taken together; each keeps the order."""
    alike: dict[Kind, list[Move]] = {}
    for move in moves:
        alike.setdefault(Kind.of(move), []).append(move)
    for kind, fellows in alike.items():
        taken: list[Move] = []
        waiting = 0
        for move in fellows:
            size = 0 if kind.delayed else move.param.numel()
            if taken and waiting + size > WAITING_ELEMENTS:
                yield kind, taken
                taken, waiting = [], 0
            taken.append(move)
            waiting += size
        yield kind, taken
