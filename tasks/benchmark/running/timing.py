"""What an optimizer costs: a short run alone, since times among others say nothing."""

from __future__ import annotations

import hashlib
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.base import Task
from tasks.benchmark.contestants.entry import Entry
from tasks.benchmark.running import drive
from tasks.benchmark.running.alone import leaves
from tasks.benchmark.running.cell import PROTOCOL, Cell
from tasks.benchmark.running.course import Optimized
from tasks.benchmark.running.streams import batch_stream, initial_parameters, one_thread, optimizer_randomness

WARMUP, STEPS = 5, 30
PLANNED = 1000  # steps that an optimizer is told of which asks for their number


@dataclass(frozen=True)
class Timing:
    """What an optimizer costs on a task.

    Attributes:
        task: Name of the task.
        optimizer: Name of the entry.
        content: Fingerprint of the optimizer, the task's data and the versions, and the device.
        step_seconds: The optimizer's own time a step, in ``step()`` and ``zero_grad()``: the median of 30
            after 5, at the default learning rate, on one thread.
        training_seconds: Time of a whole step, likewise.
        parameters: Number of parameters.
        state_floats: Optimizer state a parameter in float32 equivalents, tensors without a dimension left
            out.
    """

    task: str
    optimizer: str
    content: str
    step_seconds: float
    training_seconds: float
    parameters: int
    state_floats: float

    @property
    def key(self) -> str:
        """Under which it is found again."""
        return timing_key(self.task, self.optimizer, self.content)

    def to_record(self) -> dict[str, Any]:
        """A JSON object that `from_record` turns back."""
        return {**vars(self), "key": self.key}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Timing:
        """Read what `to_record` wrote.

        Raises:
            ValueError, KeyError, TypeError: If it is no such record.
        """
        values = dict(record)
        key, timing = values.pop("key"), cls(**values)
        if key != timing.key or not float(timing.training_seconds) > 0:
            raise ValueError("the record's key does not belong to its content")
        return timing


def timing_key(task: str, optimizer: str, content: str) -> str:
    """Hash under which the timing of an optimizer on a task is kept."""
    record = json.dumps([PROTOCOL, "timing", task, optimizer, content])
    return hashlib.sha256(record.encode()).hexdigest()[:24]


def time_entry(task: Task, entry: Entry, *, seed: int, content: str, device: str = "cpu") -> Timing:
    """Train a few steps alone, on one thread, and time them.

    Args:
        task: The instance of that seed.
        entry: The optimizer.
        seed: Draws weights and batches.
        content: For the record.
        device: Where parameters and batches live.

    Raises:
        Exception: Whatever the optimizer or the task raises.
    """
    cell = Cell(task.name, entry.name, "constant", entry.default_lr, seed, PLANNED)
    own: list[float] = []
    whole: list[float] = []
    with one_thread(), optimizer_randomness(seed, device):
        params = leaves(initial_parameters(task, seed), device)
        course = Optimized(cell, params, entry)
        for batch in itertools.islice(batch_stream(task, seed, device), WARMUP + STEPS):
            before = _now(device)
            loss = task.loss(params, batch)
            course.see(loss.item())
            drive.backward(loss, entry.takes)
            between = _now(device)
            course.step(loss)
            course.optimizer.zero_grad()
            after = _now(device)
            own.append(after - between)
            whole.append(after - before)
    return Timing(
        task.name,
        entry.name,
        content,
        step_seconds=statistics.median(own[WARMUP:]),
        training_seconds=statistics.median(whole[WARMUP:]),
        parameters=sum(tensor.numel() for tensor in params.values()),
        state_floats=state_floats(course.optimizer),
    )


def state_floats(optimizer: torch.optim.Optimizer) -> float:
    """Optimizer state a parameter, in float32 equivalents; tensors without a dimension are left out."""
    tensors = {id(tensor): tensor for tensor in _tensors(optimizer.state) if tensor.dim() > 0}
    parameters: int = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    state_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return state_bytes / 4 / max(parameters, 1)


def _tensors(tree: Any) -> Iterator[Tensor]:
    """All tensors among the values of nested containers; keys (the parameters themselves) are no state."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _tensors(value)


def _now(device: str) -> float:
    """A clock that waits for the accelerator."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()
