"""One run of one optimizer on one task, and its record."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.base import Batch, Params, Task
from tasks.benchmark import drive
from tasks.benchmark.entry import Entry
from tasks.benchmark.schedules import schedule_factors

Curve = NDArray[np.float32]
PROTOCOL = 1  # raise when a cell's definition changes, so that old records are not reused
DIVERGED_ABOVE = 100.0  # times the magnitude of the first loss
CHUNK = 32  # batches drawn at once; part of the definition of the batch stream
FINAL_SHARE = 0.1  # of the steps, over which the final loss is averaged


@dataclass(frozen=True)
class Cell:
    """The setting of one run; two runs with equal cells are the same run.

    Attributes:
        task: Name of the task.
        optimizer: Name of the entry.
        schedule: A key of `SCHEDULES`.
        learning_rate: Peak learning rate.
        seed: Draws the task's instance, the initial weights and the batches.
        steps: Length of the run.
        content: Fingerprint of the optimizer, the task's data and the versions.
    """

    task: str
    optimizer: str
    schedule: str
    learning_rate: float
    seed: int
    steps: int
    content: str = ""

    @property
    def key(self) -> str:
        """Hash of the whole setting, under which a finished run is found again."""
        return hashlib.sha256(json.dumps([PROTOCOL, vars(self)]).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class CellResult:
    """What one run gave.

    Attributes:
        cell: The setting.
        status: ``"finished"``, ``"diverged"`` or ``"failed"`` (the optimizer or the task raised, or the
            worker process died).
        error: Why it failed, one line; empty otherwise.
        curve: Training loss before each step, float32, ``[steps]``, shorter unless finished.
        final_loss: Mean of the last tenth of the curve; infinite unless finished.
        mean_loss: Mean of the curve; infinite unless finished.
        validation: Metrics of the last weights on the whole validation split; empty unless finished.
        seconds: Wall time of the training loop.
        optimizer_seconds: The part of it inside ``step()`` and ``zero_grad()``.
        step_seconds: The same for one step, the median.
        parameters: Number of parameters.
        state_floats: Optimizer state a parameter in float32 equivalents, scalar counters left out.
    """

    cell: Cell
    status: Literal["finished", "diverged", "failed"]
    error: str = ""
    curve: Curve = field(default_factory=lambda: np.zeros(0, np.float32))
    final_loss: float = math.inf
    mean_loss: float = math.inf
    validation: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    optimizer_seconds: float = 0.0
    step_seconds: float = 0.0
    parameters: int = 0
    state_floats: float = 0.0

    @property
    def diverged(self) -> bool:
        """Whether the loss left the finite or rose above the limit."""
        return self.status == "diverged"

    def to_record(self) -> dict[str, Any]:
        """A JSON object that `from_record` turns back into an equal result, the curve to the bit."""
        record = {**vars(self), "cell": vars(self.cell), "key": self.cell.key}
        record["curve"] = base64.b64encode(self.curve.astype("<f4").tobytes()).decode()
        record["final_loss"] = finite_or_none(self.final_loss)
        record["mean_loss"] = finite_or_none(self.mean_loss)
        return record

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> CellResult:
        """Read what `to_record` wrote.

        Raises:
            ValueError, KeyError, TypeError: If it is no such record.
        """
        values = dict(record)
        key, cell = values.pop("key"), Cell(**values.pop("cell"))
        if key != cell.key:
            raise ValueError("the record's key does not belong to its cell")
        values["curve"] = np.frombuffer(base64.b64decode(values["curve"]), "<f4").astype(np.float32)
        for name in ("final_loss", "mean_loss"):
            values[name] = math.inf if values[name] is None else float(values[name])
        return cls(cell=cell, **values)


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
    with _one_thread(), torch.random.fork_rng([device] if device.startswith("cuda") else []):
        torch.manual_seed(_seed_of(cell.seed, "optimizer"))
        try:
            return _train(task, entry, cell, device)
        except Exception as error:
            return CellResult(cell, "failed", error=one_line(error))


def initial_parameters(task: Task, seed: int) -> Params:
    """The weights from which every optimizer starts under this seed."""
    return task.init(torch.Generator().manual_seed(_seed_of(seed, "init")))


def batch_stream(task: Task, seed: int) -> Iterator[Batch]:
    """The endless training batches that every optimizer sees under this seed."""
    generator = torch.Generator().manual_seed(_seed_of(seed, "batches"))
    while True:
        yield from zip(*task.batches(generator, CHUNK), strict=True)


def task_fingerprint(task: Task, seed: int) -> str:
    """Hash of a task's initial weights, first batches and first loss, and of torch's version.

    Args:
        task: The instance that runs under this seed.
        seed: The cell's seed.

    Returns:
        A hexadecimal string that changes whenever the data, the model or the loss do.
    """
    digest = hashlib.sha256(f"{torch.__version__} {task.name}".encode())
    with _one_thread():
        params = initial_parameters(task, seed)
        batch = next(batch_stream(task, seed))
        loss = task.loss(params, batch)
    for tensor in (*params.values(), *batch, loss.detach()):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]


def final_window(steps: int) -> int:
    """Number of last steps over which the final loss is averaged, and of the smoothing everywhere."""
    return max(1, round(FINAL_SHARE * steps))


def finite_or_none(value: float) -> float | None:
    """JSON's form of a number: null where it is not finite."""
    return float(value) if math.isfinite(value) else None


def one_line(error: BaseException) -> str:
    """An exception as one line: its type and message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _train(task: Task, entry: Entry, cell: Cell, device: str) -> CellResult:
    params = {
        name: tensor.detach().to(device, copy=True).requires_grad_()
        for name, tensor in initial_parameters(task, cell.seed).items()
    }
    optimizer = entry.build(params, cell.learning_rate, steps=cell.steps)
    drive.switch(optimizer, "train")
    base_rates = [float(group["lr"]) for group in optimizer.param_groups]
    losses: list[float] = []
    spent: list[float] = []
    limit, started = sys.float_info.max, time.perf_counter()
    factors = schedule_factors(cell.schedule, cell.steps)
    for factor, batch in zip(factors, batch_stream(task, cell.seed), strict=False):
        loss = task.loss(params, tuple(tensor.to(device) for tensor in batch))
        losses.append(loss.item())
        if not losses[-1] <= limit:
            break
        if len(losses) == 1:
            limit = losses[0] + DIVERGED_ABOVE * abs(losses[0])
        drive.backward(loss, entry.takes)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        before = _now(device)
        drive.step(optimizer, loss, entry.takes)
        optimizer.zero_grad()
        spent.append(_now(device) - before)
    seconds = time.perf_counter() - started
    drive.switch(optimizer, "eval")
    result = CellResult(
        cell,
        "diverged",
        curve=np.array(losses, np.float32),
        seconds=seconds,
        optimizer_seconds=sum(spent),
        step_seconds=statistics.median(spent or [0.0]),
        parameters=sum(tensor.numel() for tensor in params.values()),
        state_floats=state_floats(optimizer),
    )
    return _score(task, result, params, limit)


def _score(task: Task, result: CellResult, params: Params, limit: float) -> CellResult:
    """Add the final figures, unless the run diverged at any step or in its last update."""
    if not (len(result.curve) == result.cell.steps and result.curve[-1] <= limit):
        return result
    validation = task.evaluate({name: tensor.detach().cpu() for name, tensor in params.items()})
    if not all(map(math.isfinite, validation.values())):
        return result
    curve = result.curve.astype(np.float64)
    return replace(
        result,
        status="finished",
        final_loss=float(curve[-final_window(len(curve)) :].mean()),
        mean_loss=float(curve.mean()),
        validation={name: float(value) for name, value in validation.items()},
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


def _seed_of(seed: int, stream: str) -> int:
    """Independent generator seeds for the streams of one seed."""
    return int.from_bytes(hashlib.sha256(f"{stream} {seed}".encode()).digest()[:7], "big")


def _now(device: str) -> float:
    """A clock that waits for the accelerator."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread: a sum's order, hence its last bits, depends on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
