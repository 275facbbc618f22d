"""All that a benchmark found, and its form as ``results.json``; the fields are in ``docs/benchmark.md``."""

from __future__ import annotations

import json
import math
import os
import platform
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.benchmark.figures.profiles import Profile
from tasks.benchmark.figures.summary import Headline, Summary
from tasks.benchmark.running.cell import FINAL_SHARE, CellResult, Curve
from tasks.benchmark.running.timing import Timing
from tasks.benchmark.settings import SELECTION, Settings, TaskInfo

FORMAT = "learned-opt-benchmark"
VERSION = 2
POINTS = 200


@dataclass(frozen=True)
class Results:
    """All that a benchmark found.

    Attributes:
        settings: What was chosen.
        tasks: The tasks, by name.
        cells: Every result.
        timings: Times and sizes by task and optimizer, of a short run alone; where one failed there is none.
        summaries: One for every task, entry and choice of setting.
        headlines: One for every choice of every entry, but of a lone reference.
        profiles: One for every entry; none where there is no reference.
    """

    settings: Settings
    tasks: dict[str, TaskInfo]
    cells: tuple[CellResult, ...]
    timings: dict[tuple[str, str], Timing]
    summaries: tuple[Summary, ...]
    headlines: tuple[Headline, ...]
    profiles: tuple[Profile, ...]

    @property
    def headline(self) -> Headline | None:
        """The tuned headline of the first learned entry, or of the first if none is; references come last."""
        tuned = [line for line in self.headlines if line.choice == "tuned"]
        tuned.sort(key=lambda line: line.optimizer in self.settings.references)
        learned = [line for line in tuned if self.settings.entry(line.optimizer).kind == "learned"]
        return next(iter(learned + tuned), None)

    def summary(self, task: str, optimizer: str, choice: str = "tuned") -> Summary | None:
        """The summary of an optimizer on a task, if that choice of setting ran."""
        return self._summaries.get((task, optimizer, choice))

    def runs(self, task: str, optimizer: str, schedule: str, learning_rate: float) -> list[CellResult]:
        """The runs of one setting, seeds in rising order."""
        return list(self._runs.get((task, optimizer, schedule, learning_rate), ()))

    @cached_property
    def _summaries(self) -> dict[tuple[str, str, str], Summary]:
        return {(one.task, one.optimizer, one.choice): one for one in self.summaries}

    @cached_property
    def _runs(self) -> dict[tuple[str, str, str, float], list[CellResult]]:
        found: dict[tuple[str, str, str, float], list[CellResult]] = {}
        for result in sorted(self.cells, key=lambda result: result.cell.seed):
            cell = result.cell
            found.setdefault((cell.task, cell.optimizer, cell.schedule, cell.learning_rate), []).append(
                result
            )
        return found

    def failures(self) -> list[CellResult]:
        """The runs that raised or whose process died."""
        return [result for result in self.cells if result.status == "failed"]

    def to_json(self) -> str:
        """The content of ``results.json``: valid JSON, no NaN, no path of this machine, a line a run."""
        fields = (f"{json.dumps(name)}: {_lines(value)}" for name, value in self._document().items())
        return "{\n" + ",\n".join(fields) + "\n}\n"

    def _document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "settings": self._settings(),
            "environment": environment(),
            "seconds": sum(result.seconds for result in self.cells),
            "headline": self._leading() if self.headline else None,
            "headlines": [headline_record(line) for line in self.headlines],
            "profiles": [asdict(profile) for profile in self.profiles],
            "summary": [finite(asdict(summary)) for summary in self.summaries],
            "timings": [timing_record(timing) for timing in self.timings.values()],
            "cells": [cell_record(result, self._is_chosen(result)) for result in self.cells],
        }

    def _leading(self) -> dict[str, Any]:
        """The headline with all the settings that it depends on."""
        assert self.headline
        settings = self.settings
        return headline_record(self.headline) | {
            "schedules": settings.schedules,
            "learning_rates": settings.sweeps,
            "select": settings.select,
        }

    def _is_chosen(self, result: CellResult) -> bool:
        """Whether a run is of the setting of a summary."""
        cell = result.cell
        return (cell.task, cell.optimizer, cell.schedule, cell.learning_rate) in self._chosen

    @cached_property
    def _chosen(self) -> set[tuple[str, str, str | None, float | None]]:
        return {(one.task, one.optimizer, one.schedule, one.learning_rate) for one in self.summaries}

    def _settings(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "seeds": settings.seeds,
            "schedules": settings.schedules,
            "suite": settings.suite,
            "references": settings.references,
            "select": settings.select,
            "selection": SELECTION[settings.select],
            "final_loss": f"mean over the last {FINAL_SHARE:.0%} of the steps",
            "device": settings.device,
            "tasks": [asdict(task) for task in self.tasks.values()],
            "optimizers": [
                {
                    "name": entry.name,
                    "label": entry.label,
                    "kind": entry.kind,
                    "fingerprint": entry.fingerprint,
                    "takes": entry.takes,
                    "default_lr": entry.default_lr,
                    "learning_rates": settings.sweeps[entry.name],
                }
                for entry in settings.entries
            ],
        }


def headline_record(headline: Headline) -> dict[str, Any]:
    """A headline as it stands in ``results.json``."""
    figure = headline.speedup
    return {
        "optimizer": headline.optimizer,
        "choice": headline.choice,
        "references": headline.references,
        "speedup_iqm": figure.value if figure else None,
        "low": figure.low if figure else None,
        "high": figure.high if figure else None,
        "wall_speedup": asdict(headline.wall_speedup) if headline.wall_speedup else None,
        "improvement": asdict(headline.improvement) if headline.improvement else None,
        "suite": headline.suite,
        "tasks": headline.tasks,
        "steps": headline.steps,
        "seeds": headline.seeds,
    }


def timing_record(timing: Timing) -> dict[str, Any]:
    """A timing as it stands in ``results.json``."""
    return {name: value for name, value in vars(timing).items() if name != "content"}


def cell_record(result: CellResult, with_curve: bool) -> dict[str, Any]:
    """A run as it stands in ``results.json``: its curve thinned or left out, numbers finite or null."""
    steps, losses = thinned(result.curve) if with_curve else ([], [])
    record = {
        **{name: value for name, value in vars(result.cell).items() if name != "content"},
        "status": result.status,
        "diverged": result.diverged,
        "error": result.error,
        "final_loss": result.final_loss,
        "mean_loss": result.mean_loss,
        "validation": result.validation,
        "seconds": result.seconds,
        "curve": {"step": steps, "loss": losses} if with_curve else None,
    }
    return {name: finite(value) for name, value in record.items()}


def thinned(curve: Curve, points: int = POINTS) -> tuple[list[int], list[float]]:
    """Means of equal blocks of a curve, and the number of the last step in each.

    Args:
        curve: Losses, ``[T]``.
        points: Most blocks; a shorter curve stays as it is.

    Returns:
        Step numbers (from 1) and losses to six digits, equally many.
    """
    blocks = np.array_split(curve.astype(np.float64), max(1, min(points, len(curve)))) if len(curve) else []
    ends = np.cumsum([len(block) for block in blocks], dtype=int)
    return ends.tolist(), [float(f"{block.mean():.6g}") for block in blocks]


def finite(value: Any) -> Any:
    """A tree of JSON values with null for NaN and infinities."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(value: Any) -> str:
    """JSON with one line for every object of a list."""
    if not isinstance(value, list):
        return json.dumps(value, allow_nan=False)
    return "[\n" + ",\n".join(json.dumps(item, allow_nan=False) for item in value) + "\n]"


@cache
def environment() -> dict[str, Any]:
    """Versions and hardware, nothing that tells one machine of a kind from another."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_model() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
