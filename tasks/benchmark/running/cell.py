"""One run of one optimizer on one task: its setting and its record."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float32]
PROTOCOL = 2  # raise when a cell's definition changes, so that old records are not reused
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


def no_curve() -> Curve:
    """The curve of a run that took no step."""
    return np.zeros(0, np.float32)


def no_path() -> Curve:
    """The path of a run on a task that has other than two parameters."""
    return np.zeros((0, 2), np.float32)


@dataclass(frozen=True)
class CellResult:
    """What one run gave.

    Attributes:
        cell: The setting.
        status: ``"finished"``, ``"diverged"`` or ``"failed"`` (the optimizer or the task raised, the worker
            process died, or it took too long).
        error: Why it failed, one line; empty otherwise.
        curve: Training loss before each step, float32, ``[T]``, shorter unless finished.
        path: The parameters before each step and after the last, float32, ``[T + 1, 2]``, where the task has
            one tensor of two; else empty. A run that diverged has those before each loss alone.
        final_loss: Mean of the last tenth of the curve; infinite unless finished.
        mean_loss: Mean of the curve; infinite unless finished.
        validation: Metrics of the last weights on the whole validation split; empty unless finished.
        seconds: Wall time of the training loop; of runs that advance together, this one's share by steps.
        parameters: Number of parameters.
    """

    cell: Cell
    status: Literal["finished", "diverged", "failed"]
    error: str = ""
    curve: Curve = field(default_factory=no_curve)
    path: Curve = field(default_factory=no_path)
    final_loss: float = math.inf
    mean_loss: float = math.inf
    validation: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    parameters: int = 0

    @property
    def diverged(self) -> bool:
        """Whether the loss left the finite or rose above the limit."""
        return self.status == "diverged"

    def to_record(self) -> dict[str, Any]:
        """A JSON object that `from_record` turns back into an equal result, the curve to the bit."""
        record = {**vars(self), "cell": vars(self.cell), "key": self.cell.key}
        for name in ("curve", "path"):
            record[name] = base64.b64encode(record[name].astype("<f4").tobytes()).decode()
        for name in ("final_loss", "mean_loss"):
            record[name] = finite_or_none(record[name])
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
        for name in ("curve", "path"):
            values[name] = np.frombuffer(base64.b64decode(values[name]), "<f4").astype(np.float32)
        values["path"] = values["path"].reshape(-1, 2)
        for name in ("final_loss", "mean_loss"):
            values[name] = math.inf if values[name] is None else float(values[name])
        return cls(cell=cell, **values)


def final_window(steps: int) -> int:
    """Number of last steps over which the final loss is averaged, and of the smoothing everywhere."""
    return max(1, round(FINAL_SHARE * steps))


def finite_or_none(value: float) -> float | None:
    """JSON's form of a number: null where it is not finite."""
    return float(value) if math.isfinite(value) else None


def one_line(error: BaseException) -> str:
    """An exception as one line: its type and message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
