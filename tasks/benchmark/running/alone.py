"""One run by itself."""

from __future__ import annotations

import time

from tasks.base import Params, Task
from tasks.benchmark.contestants.entry import Entry
from tasks.benchmark.running import drive
from tasks.benchmark.running.cell import Cell, CellResult, one_line
from tasks.benchmark.running.course import Optimized
from tasks.benchmark.running.streams import batch_stream, initial_parameters, one_thread, optimizer_randomness


def run_cell(task: Task, entry: Entry, cell: Cell, *, device: str = "cpu") -> CellResult:
    """Train once and record it; exceptions of the optimizer and the task become a failed result.

    Runs on one thread, and draws weights and batches from generators of the seed alone, so that equal cells
    give equal curves to the bit in whatever process and order they run.

    Args:
        task: The instance to optimise.
        entry: The optimizer.
        cell: The setting.
        device: Where parameters and batches live.

    Returns:
        The result, whatever happened short of a dying process.
    """
    with one_thread(), optimizer_randomness(cell.seed, device):
        try:
            course = Optimized(cell, leaves(initial_parameters(task, cell.seed), device), entry)
            started = time.perf_counter()
            _train(task, course, device)
            return course.result(task, time.perf_counter() - started)
        except Exception as error:
            return CellResult(cell, "failed", error=one_line(error))


def leaves(params: Params, device: str) -> Params:
    """Copies that require gradients."""
    return {name: tensor.detach().to(device, copy=True).requires_grad_() for name, tensor in params.items()}


def _train(task: Task, course: Optimized, device: str) -> None:
    optimizer, takes, params = course.optimizer, course.takes, course.params
    stream = batch_stream(task, course.cell.seed, device)
    for _ in range(course.cell.steps):
        loss = task.loss(params, next(stream))
        if not course.see(loss.item()):
            return
        drive.backward(loss, takes)
        course.step(loss)
        optimizer.zero_grad()
    course.end()
