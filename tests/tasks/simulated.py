"""Benchmarks whose curves are simulated, for tests of the figures that follow from them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from tasks.benchmark import Entry
from tasks.benchmark.figures.summary import summarise
from tasks.benchmark.results import Results
from tasks.benchmark.running.cell import Cell, CellResult, final_window
from tasks.benchmark.running.timing import Timing
from tasks.benchmark.settings import Settings, TaskInfo

RATES = (1e-3, 1e-2)
SCHEDULES = ("constant", "cosine")
Curve = Callable[[Cell], np.ndarray | None]


def noisy_curve(cell: Cell) -> np.ndarray:
    """A fall with noise, whose speed depends on the whole setting; equal seeds start equal."""
    text = f"{cell.task} {cell.optimizer} {cell.schedule} {cell.learning_rate}"
    own = np.random.default_rng([*text.encode(), cell.seed])
    speed = np.random.default_rng([*text.encode()]).uniform(1, 6) * own.uniform(0.8, 1.2)
    steps = np.arange(cell.steps) / cell.steps
    curve = 1 + np.exp(-speed * steps) + 0.02 * own.normal(size=cell.steps)
    curve[0] = 2 + 0.01 * cell.seed
    return curve


def simulated(
    *,
    optimizers: Sequence[str] = ("adam", "adamw", "ours"),
    tasks: Sequence[str] = ("one", "two"),
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 40,
    curve: Curve = noisy_curve,
    labels: dict[str, str] | None = None,
    learned: Sequence[str] = ("ours",),
    timed: Sequence[str] | None = None,
    references: tuple[str, ...] = ("adam", "adamw"),
    rates: tuple[float, ...] = RATES,
    metric: str = "accuracy",
    higher_is_better: bool | None = None,
    **options: object,
) -> Results:
    """Results of runs that are curves alone; a curve of None is a run that diverged.

    The validation loss is the last loss, and the accuracy one over it. A whole step takes optimizer number
    k (from 1) k milliseconds, half of which are its own.
    """
    entries = tuple(
        Entry(
            name,
            torch.optim.SGD,
            5e-3,
            rates,
            (labels or {}).get(name, ""),
            "learned" if name in learned else "baseline",
            name,
        )
        for name in optimizers
    )
    settings = Settings(
        entries=entries,
        sweeps={entry.name: entry.learning_rates for entry in entries},
        with_defaults=True,
        schedules=SCHEDULES,
        seeds=tuple(seeds),
        references=references,
        device="cpu",
        **options,
    )
    rises = metric == "accuracy" if higher_is_better is None else higher_is_better
    infos = {name: TaskInfo(name, f"Task {name}", metric, steps, rises) for name in tasks}
    cells = tuple(
        _run(Cell(task, entry.name, schedule, rate, seed, steps), curve)
        for seed in seeds
        for task in tasks
        for entry in entries
        for rate in settings.rates(entry)
        for schedule in SCHEDULES
    )
    timings = {
        (task, name): Timing(task, name, "", 5e-4 * (k + 1), 1e-3 * (k + 1), 100, 2.0)
        for task in tasks
        for k, name in enumerate(optimizers)
        if timed is None or name in timed
    }
    return Results(settings, infos, cells, timings, *summarise(settings, infos, cells, timings))


def _run(cell: Cell, curve: Curve) -> CellResult:
    losses = curve(cell)
    if losses is None:
        return CellResult(cell, "diverged", curve=np.array([2.0, 1e9], np.float32))
    stored = losses.astype(np.float32)
    exact = stored.astype(np.float64)
    return CellResult(
        cell,
        "finished",
        curve=stored,
        final_loss=float(exact[-final_window(cell.steps) :].mean()),
        mean_loss=float(exact.mean()),
        validation={"loss": float(exact[-1]), "accuracy": float(1 / exact[-1])},
        seconds=1.0,
    )
