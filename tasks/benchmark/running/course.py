"""The course of one run: its optimizer, its learning rates, and what it has seen so far."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.base import Params, Task
from tasks.benchmark.contestants.entry import Entry
from tasks.benchmark.running import drive
from tasks.benchmark.running.cell import Cell, CellResult, final_window, one_line
from tasks.benchmark.schedules import schedule_factors

DIVERGED_ABOVE = 100.0  # times the magnitude of the first loss


class Course:
    """One run on its way, alone or among others.

    Args:
        cell: The setting.
        params: Its parameters, which change in place.

    Attributes:
        going: False from the moment at which it diverged or failed.
    """

    def __init__(self, cell: Cell, params: Params) -> None:
        self.cell, self.params = cell, params
        self.going = True
        self.losses: list[float] = []
        self.factors = schedule_factors(cell.schedule, cell.steps)
        self._error = ""
        self._limit = sys.float_info.max
        tensors = list(params.values())
        self._traced = tensors[0] if len(tensors) == 1 and tensors[0].numel() == 2 else None
        self._path: list[Any] = []

    def see(self, loss: float) -> bool:
        """Write down the loss before a step; says whether the run goes on."""
        if self._traced is not None:
            self._path.append(self._traced.tolist())
        self.losses.append(loss)
        if not loss <= self._limit:
            self.going = False
        elif len(self.losses) == 1:
            self._limit = loss + DIVERGED_ABOVE * abs(loss)
        return self.going

    def fail(self, error: Exception) -> None:
        """Stop, with the reason."""
        self.going, self._error = False, one_line(error)

    def end(self) -> None:
        """Take leave of the last step; not for a run that stopped before."""
        if self._traced is not None:
            self._path.append(self._traced.tolist())

    def result(self, task: Task, seconds: float) -> CellResult:
        """The record of the run, with the last weights evaluated if it came to its end.

        Args:
            task: The instance that was optimised.
            seconds: The time that it took.
        """
        if self._error:
            return CellResult(self.cell, "failed", error=self._error)
        result = CellResult(
            self.cell,
            "diverged",
            curve=np.array(self.losses, np.float32),
            path=np.array(self._path, np.float32).reshape(-1, 2),
            seconds=seconds,
            parameters=sum(tensor.numel() for tensor in self.params.values()),
        )
        return _scored(task, result, self.params) if self.going else result


class Optimized(Course):
    """A run with an optimizer of its own.

    Args:
        cell: The setting.
        params: Leaf tensors that require gradients.
        entry: The optimizer.
    """

    def __init__(self, cell: Cell, params: Params, entry: Entry) -> None:
        super().__init__(cell, params)
        self.takes = entry.takes
        self.leaves = list(params.values())
        self.optimizer = entry.build(params, cell.learning_rate, steps=cell.steps)
        drive.switch(self.optimizer, "train")
        self._base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def step(self, loss: Tensor) -> None:
        """One update with the gradients that are there; ``loss`` is what `see` saw last."""
        factor = self.factors[len(self.losses) - 1]
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        drive.step(self.optimizer, loss, self.takes)

    def end(self) -> None:
        """Take leave of the last step: the parameters become those to be used."""
        super().end()
        drive.switch(self.optimizer, "eval")


def _scored(task: Task, result: CellResult, params: Params) -> CellResult:
    """Add the final figures, unless the last update broke the weights."""
    with torch.no_grad():
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
