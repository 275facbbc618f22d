"""Runs of one optimizer on one task that advance together: same seed, other schedules and learning rates.

Their weights are stacked, and one ``vmap`` of the task's gradient serves all of them, as they see the same
batches. Each run has an optimizer of its own over its part of the stack, unless the entry can advance all of
them in one call.
"""

from __future__ import annotations

import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.utils.flop_counter import FlopCounterMode

from tasks.base import Params, Task
from tasks.benchmark.contestants.entry import Entry
from tasks.benchmark.running.alone import leaves, run_cell
from tasks.benchmark.running.cell import Cell, CellResult
from tasks.benchmark.running.course import Course, Optimized
from tasks.benchmark.running.streams import (
    batch_stream,
    initial_parameters,
    one_thread,
    optimizer_randomness,
    reseed,
)

MOST_OPERATIONS = 1e8
"""Floating-point operations of one gradient above which runs are faster one after the other."""
MOST_OPERATIONS_RULED = 4e8
"""The same for an entry that advances all runs in one call, which gains from that too."""
MOST_OPERATIONS_TOGETHER = 4e9
"""Of the gradients of all members of a group, so that a group does not take too long."""
MOST_MEMBERS = 32
MOST_WEIGHTS = 2**22
"""Weights of all members of a group."""


class _ApartError(Exception):
    """These runs cannot advance together."""


def group_size(task: Task, entry: Entry) -> int:
    """How many runs advance together: 1 where that does not pay or is not possible.

    It depends on the task's code and sizes alone, so that it is the same on every machine: one gradient takes
    at most `MOST_OPERATIONS` operations (more where the entry advances a population), `torch.func.vmap` can
    map it, and the optimizer does not differentiate gradients again. Groups have at most `MOST_MEMBERS`
    members, `MOST_WEIGHTS` weights and `MOST_OPERATIONS_TOGETHER`.

    Args:
        task: Any instance.
        entry: The optimizer.
    """
    most = MOST_OPERATIONS if entry.population is None else MOST_OPERATIONS_RULED
    operations = _operations(task)
    if "graph" in entry.takes or operations > most:
        return 1
    weights = sum(tensor.numel() for tensor in initial_parameters(task, 0).values())
    fitting = min(MOST_WEIGHTS // max(weights, 1), int(MOST_OPERATIONS_TOGETHER // max(operations, 1)))
    return max(1, min(MOST_MEMBERS, fitting))


def run_group(task: Task, entry: Entry, cells: Sequence[Cell], *, device: str = "cpu") -> list[CellResult]:
    """Run cells that differ in schedule and learning rate alone; each as `run_cell`, to rounding.

    A run that diverges or whose optimizer raises stops alone and leaves the others as they are to the bit.
    Where something that they share raises, or optimizers draw random numbers from torch's own generator, they
    run one after the other.

    Args:
        task: The instance to optimise.
        entry: The optimizer.
        cells: The settings; of one task, optimizer, seed and length.
        device: Where parameters and batches live.

    Returns:
        A result for each, in order; to the bit the same for the same cells.
    """
    together = _run_together(task, entry, cells, device) if len(cells) > 1 else None
    return together or [run_cell(task, entry, cell, device=device) for cell in cells]


def _run_together(task: Task, entry: Entry, cells: Sequence[Cell], device: str) -> list[CellResult] | None:
    """The results of all of them, or None where they cannot advance together; runs alone will say why."""
    with one_thread(), optimizer_randomness(cells[0].seed, device):
        started = time.perf_counter()
        try:
            members = (_Individuals if entry.population is None else _Ruled)(task, entry, cells, device)
            _train(task, members, device)
            seconds = time.perf_counter() - started
            seen = sum(len(course.losses) for course in members.courses)
            return [
                course.result(task, seconds * len(course.losses) / max(seen, 1)) for course in members.courses
            ]
        except Exception:
            return None


def _train(task: Task, members: _Members, device: str) -> None:
    cell = members.courses[0].cell
    gradient = vmap(grad_and_value(task.loss), in_dims=(0, None))
    for batch in itertools.islice(batch_stream(task, cell.seed, device), cell.steps):
        grads, losses = gradient(members.stack, batch)
        if not members.see(losses.tolist()):
            return
        members.step(grads, losses)
    for course in members.courses:
        if course.going:
            course.end()


class _Members(ABC):
    """The runs of a group.

    Args:
        task: The instance to optimise.
        entry: The optimizer.
        cells: The settings.
        device: Where parameters live.

    Attributes:
        stack: Their weights, ``[P, ...]`` each, which change in place.
        courses: The runs, over parts of the stack.
    """

    def __init__(self, task: Task, entry: Entry, cells: Sequence[Cell], device: str) -> None:
        start = initial_parameters(task, cells[0].seed)
        self._start = {name: tensor.detach().to(device, copy=True) for name, tensor in start.items()}
        self.stack = {
            name: tensor.expand(len(cells), *tensor.shape).clone() for name, tensor in self._start.items()
        }
        self.courses: Sequence[Course] = [
            self.enter(entry, cell, {name: tensor[index] for name, tensor in self.stack.items()})
            for index, cell in enumerate(cells)
        ]

    @abstractmethod
    def enter(self, entry: Entry, cell: Cell, params: Params) -> Course:
        """Begin one run over its part of the stack."""

    @abstractmethod
    def step(self, grads: Params, losses: Tensor) -> None:
        """Update the members that go on.

        Args:
            grads: Gradients, ``[P, ...]`` each.
            losses: What `see` saw last, ``[P]``.
        """

    def see(self, losses: Sequence[float]) -> bool:
        """Write down the losses before a step; says whether any run goes on."""
        for index, (course, loss) in enumerate(zip(self.courses, losses, strict=True)):
            if course.going and not course.see(loss):
                self.rest(index)
        return any(course.going for course in self.courses)

    def rest(self, index: int) -> None:
        """Put a member that stopped back to the start: numbers that overflow or underflow are slow."""
        for name, tensor in self.stack.items():
            tensor[index].copy_(self._start[name])


class _Individuals(_Members):
    """Members with an optimizer each."""

    courses: Sequence[Optimized]

    def __init__(self, task: Task, entry: Entry, cells: Sequence[Cell], device: str) -> None:
        reseed(cells[0].seed)
        self._device, self._untouched = device, _random_state(device)
        super().__init__(task, entry, cells, device)
        members = list(zip(*(tensor.unbind() for tensor in self.stack.values()), strict=True))
        self._homes = [[(home, home.data_ptr()) for home in homes] for homes in members]
        self._require_no_draws()

    def enter(self, entry: Entry, cell: Cell, params: Params) -> Course:
        """Begin one run, with leaves that share the stack's memory."""
        own = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        try:
            return Optimized(cell, own, entry)
        except Exception as error:
            failed = Course(cell, own)
            failed.fail(error)
            return failed

    def step(self, grads: Params, losses: Tensor) -> None:
        """Let every optimizer step on its part of the gradients."""
        parts = zip(*(grads[name].contiguous().unbind() for name in self.stack), strict=True)
        for index, (course, own) in enumerate(zip(self.courses, parts, strict=True)):
            if not course.going:
                continue
            for leaf, grad in zip(course.leaves, own, strict=True):
                leaf.grad = grad
            try:
                course.step(losses[index] if course.takes else losses)
            except Exception as error:
                course.fail(error)
                self.rest(index)
            else:
                self._bring_home(index, course)
        self._require_no_draws()

    def _bring_home(self, index: int, course: Optimized) -> None:
        """Write what an optimizer put in place of a parameter's memory into the stack."""
        for leaf, (home, address) in zip(course.leaves, self._homes[index], strict=True):
            if leaf.data_ptr() != address:
                home.copy_(leaf.detach())
                leaf.data = home

    def _require_no_draws(self) -> None:
        """Refuse optimizers that draw random numbers: each run must see those that it sees alone."""
        if not all(map(torch.equal, _random_state(self._device), self._untouched)):
            raise _ApartError


class _Ruled(_Members):
    """Members that one function advances."""

    def __init__(self, task: Task, entry: Entry, cells: Sequence[Cell], device: str) -> None:
        super().__init__(task, entry, cells, device)
        assert entry.population is not None
        self._population = entry.population(self.stack, steps=cells[0].steps)
        rates = [[course.cell.learning_rate * factor for factor in course.factors] for course in self.courses]
        self._rates = iter(torch.tensor(rates, device=device).T)

    def enter(self, entry: Entry, cell: Cell, params: Params) -> Course:
        """Begin one run."""
        return Course(cell, params)

    def step(self, grads: Params, losses: Tensor) -> None:
        """Advance all, those too that have stopped."""
        self._population.step(grads, next(self._rates), losses)


def _random_state(device: str) -> tuple[Tensor, ...]:
    """Of torch's own generators."""
    state = torch.get_rng_state()
    return (state, torch.cuda.get_rng_state(device)) if device.startswith("cuda") else (state,)


def _operations(task: Task) -> float:
    """Floating-point operations of one gradient; infinite where `torch.func.vmap` cannot map it."""
    with one_thread(), optimizer_randomness(0, "cpu"):
        params, batch = initial_parameters(task, 0), next(batch_stream(task, 0))
        try:
            with FlopCounterMode(display=False) as counter:
                task.loss(leaves(params, "cpu"), batch).backward()  # type: ignore[no-untyped-call]
            pair = {name: tensor.expand(2, *tensor.shape) for name, tensor in params.items()}
            vmap(grad_and_value(task.loss), in_dims=(0, None))(pair, batch)
        except Exception:
            return math.inf
    return float(counter.get_total_flops())
