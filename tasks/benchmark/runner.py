"""Plans the cells of a benchmark, runs those not yet on disk, and collects all of them."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tasks import get_task
from tasks.base import Task
from tasks.benchmark.baselines import get_entry
from tasks.benchmark.cell import Cell, CellResult, one_line, run_cell, task_fingerprint
from tasks.benchmark.entry import Entry, require_learning_rate
from tasks.benchmark.report import write_report
from tasks.benchmark.results import Results
from tasks.benchmark.schedules import SCHEDULES
from tasks.benchmark.settings import SELECTION, Select, Settings, TaskInfo
from tasks.benchmark.store import CellStore
from tasks.benchmark.summary import summarise
from tasks.benchmark.workers import WorkerDied, run_jobs
from tasks.files import writable_folder
from tasks.minima import minima_kept_in
from tasks.registry import choose

T = TypeVar("T")


class BenchmarkInterrupted(KeyboardInterrupt):
    """Ctrl-C during a benchmark.

    Attributes:
        out: The folder; the same call again goes on from its ``cells.jsonl``.
        done: Cells on disk.
        total: Cells planned.
    """

    def __init__(self, out: Path, done: int, total: int) -> None:
        super().__init__(
            f"stopped after {done} of {total} runs; run the same benchmark again to go on ({out})"
        )
        self.out, self.done, self.total = out, done, total


@dataclass(frozen=True)
class _Context:
    """What every worker needs to run any cell; minima that tasks search for are kept beside the results."""

    tasks: dict[str, str | Task]
    entries: dict[str, Entry]
    device: str
    minima: Path


def run_benchmark(
    tasks: Sequence[str | Task],
    entries: Sequence[str | Entry],
    *,
    seeds: int | Sequence[int],
    steps: int | Mapping[str, int] | None = None,
    schedules: Sequence[str] = ("constant", "cosine"),
    learning_rates: Sequence[float] | None = None,
    out: str | Path,
    references: Sequence[str] = ("adam",),
    suite: str = "",
    select: Select = "train",
    workers: int = 2,
    device: str = "cpu",
    progress: bool = True,
) -> Results:
    """Run every entry on every task at every schedule, learning rate and seed, and write the report.

    A seed draws the task's instance, the initial weights and the batches, the same for every entry. Cells
    that ``out`` already holds are not run again.

    Args:
        tasks: Names for `tasks.get_task`, or tasks, used as they are under every seed.
        entries: Names of `BASELINES`, or entries; their names are distinct.
        seeds: The seeds, or their number (0, 1, ...).
        steps: Steps of every run, or by task; the task's ``default_steps`` where that says nothing.
        schedules: Keys of `SCHEDULES`.
        learning_rates: Exactly these for all entries; each entry's own sweep and default if None.
        out: Folder for ``cells.jsonl``, ``results.json``, ``index.html``, the plots, and in ``minima`` the
            least values against which some tasks report a gap.
        references: Names of the entries over the best of which speed-ups are figured; those that do not take
            part are ignored.
        suite: Name of the suite that the tasks are, for the record; empty for a free choice.
        select: What a tuned setting is chosen by, a key of `SELECTION`.
        workers: Processes, one thread each; 0 runs everything in this process.
        device: Where parameters and batches live, e.g. ``"cpu"`` or ``"cuda"``.
        progress: Whether to show a progress bar with the time left.

    Returns:
        All cells and the summary; the same as in ``out/results.json``.

    Raises:
        ValueError: If a name is unknown, or a list is empty or has duplicates, or a number is out of range.
        OSError: If ``out`` cannot be written.
        BenchmarkInterrupted: On Ctrl-C; what has finished is on disk.
    """
    chosen_tasks = _named([(task if isinstance(task, str) else task.name, task) for task in tasks], "tasks")
    contestants = [get_entry(entry) if isinstance(entry, str) else entry for entry in entries]
    chosen_entries = _named([(entry.name, entry) for entry in contestants], "entries")
    settings = _settings(
        chosen_entries, seeds, steps, schedules, learning_rates, references, device, suite, select
    )
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    context = _Context(chosen_tasks, chosen_entries, device, Path(out) / "minima")
    if workers:
        _require_picklable(context)
    infos, cells = _plan(context, settings, steps)
    folder = writable_folder(out)
    results = _run_missing(context, cells, CellStore(folder / "cells.jsonl"), folder, workers, progress)
    collected = Results(settings, infos, results, {}, *summarise(settings, infos, results, {}))
    write_report(collected, folder)
    return collected


def _settings(
    entries: dict[str, Entry],
    seeds: int | Sequence[int],
    steps: int | Mapping[str, int] | None,
    schedules: Sequence[str],
    learning_rates: Sequence[float] | None,
    references: Sequence[str],
    device: str,
    suite: str,
    select: Select,
) -> Settings:
    """Check every option before anything runs."""
    chosen_seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen_seeds or min(chosen_seeds) < 0 or len(set(chosen_seeds)) < len(chosen_seeds):
        raise ValueError(f"expected at least one seed, distinct and not negative, got {seeds!r}")
    given = steps.values() if isinstance(steps, Mapping) else [] if steps is None else [steps]
    if any(number < 1 for number in given):
        raise ValueError(f"steps must be at least 1, got {steps}")
    choose("select", select, SELECTION)
    if not schedules:
        raise ValueError("expected at least one schedule")
    for name in schedules:
        choose("schedule", name, SCHEDULES)
    if learning_rates is not None and not learning_rates:
        raise ValueError("expected at least one learning rate")
    for rate in learning_rates or ():
        require_learning_rate(rate)
    sweeps = {
        name: tuple(sorted(set(learning_rates))) if learning_rates else entry.learning_rates
        for name, entry in entries.items()
    }
    return Settings(
        entries=tuple(entries.values()),
        sweeps=sweeps,
        with_defaults=learning_rates is None,
        schedules=tuple(dict.fromkeys(schedules)),
        seeds=chosen_seeds,
        references=tuple(name for name in dict.fromkeys(references) if name in entries),
        device=device,
        suite=suite,
        select=select,
    )


def _plan(
    context: _Context, settings: Settings, steps: int | Mapping[str, int] | None
) -> tuple[dict[str, TaskInfo], list[Cell]]:
    """Every cell in the order in which they run: seeds outermost, so that a stopped run is a smaller one."""
    infos: dict[str, TaskInfo] = {}
    contents: dict[tuple[str, int], str] = {}
    for name, seed in itertools.product(context.tasks, settings.seeds):
        task = _instance(context, name, seed)
        given = steps.get(name) if isinstance(steps, Mapping) else steps
        infos.setdefault(name, TaskInfo(name, task.description, task.metric, given or task.default_steps))
        contents[name, seed] = task_fingerprint(task, seed)
    cells = [
        Cell(
            name,
            entry.name,
            schedule,
            rate,
            seed,
            infos[name].steps,
            f"{contents[name, seed]} {entry.fingerprint}",
        )
        for seed, name, entry in itertools.product(settings.seeds, context.tasks, settings.entries)
        for rate, schedule in itertools.product(settings.rates(entry), settings.schedules)
    ]
    return infos, cells


def _run_missing(
    context: _Context, cells: list[Cell], store: CellStore, folder: Path, workers: int, progress: bool
) -> tuple[CellResult, ...]:
    """Results of all cells in their order; the missing ones run, and reach the store as they come."""
    found = {cell: store.get(cell.key) for cell in cells}
    missing = [cell for cell, result in found.items() if result is None]
    with _bar(progress) as bar:
        if progress and store.unreadable:
            bar.console.print(
                f"{store.unreadable} unreadable lines of {store.path.name}: those runs run again"
            )
        shown = bar.add_task("runs", total=len(cells), completed=len(cells) - len(missing))
        try:
            for result in _outcomes(context, missing, workers):
                store.append(result)
                found[result.cell] = result
                bar.update(shown, advance=1)
        except KeyboardInterrupt:
            done = sum(result is not None for result in found.values())
            raise BenchmarkInterrupted(folder, done, len(cells)) from None
    return tuple(result for result in found.values() if result is not None)


def _outcomes(context: _Context, cells: list[Cell], workers: int) -> Iterator[CellResult]:
    """Run cells here or in workers, in the order in which they finish."""
    if workers == 0:
        for cell in cells:
            yield _run(context, cell)
        return
    for index, outcome in run_jobs(_run, context, cells, workers=workers):
        if isinstance(outcome, WorkerDied):
            outcome = CellResult(cells[index], "failed", error=one_line(outcome))
        yield outcome


def _run(context: _Context, cell: Cell) -> CellResult:
    task = _instance(context, cell.task, cell.seed)
    with minima_kept_in(context.minima):
        return run_cell(task, context.entries[cell.optimizer], cell, device=context.device)


def _instance(context: _Context, name: str, seed: int) -> Task:
    """The task that runs under a seed: a named task's instance of that seed, or the given task itself."""
    task = context.tasks[name]
    return _named_task(task, seed) if isinstance(task, str) else task


@lru_cache(maxsize=8)
def _named_task(name: str, seed: int) -> Task:
    return get_task(name, seed=seed)


def _named(pairs: list[tuple[str, T]], what: str) -> dict[str, T]:
    names = [name for name, _ in pairs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected at least one of {what}, with distinct names, got {names}")
    return dict(pairs)


def _require_picklable(context: _Context) -> None:
    for name, item in (*context.entries.items(), *context.tasks.items()):
        try:
            pickle.dumps(item)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be sent to a worker process ({one_line(error)}); "
                "use module-level functions, or workers=0"
            ) from error


def _bar(shown: bool) -> Progress:
    return Progress(
        TextColumn("benchmark"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        disable=not shown,
    )
