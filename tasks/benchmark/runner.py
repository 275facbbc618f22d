"""Plans the cells of a benchmark, runs those not yet on disk, and collects all of them."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tasks.base import Task, require_seed
from tasks.benchmark.contestants.baselines import get_entry
from tasks.benchmark.contestants.entry import Entry, require_learning_rate, require_name
from tasks.benchmark.figures.summary import summarise
from tasks.benchmark.report.write import write_report
from tasks.benchmark.results import Results
from tasks.benchmark.running.campaign import BenchmarkInterrupted, run_missing
from tasks.benchmark.running.cell import Cell, one_line
from tasks.benchmark.running.jobs import Context
from tasks.benchmark.running.streams import task_fingerprint, validation_fingerprint
from tasks.benchmark.schedules import SCHEDULES
from tasks.benchmark.settings import SELECTION, Select, Settings, TaskInfo
from tasks.catalogue import TASKS
from tasks.files import writable_folder
from tasks.minima import minima_kept_in
from tasks.registry import choose

__all__ = ["BenchmarkInterrupted", "check_benchmark", "run_benchmark"]

T = TypeVar("T")


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
    time_limit: float = 600.0,
    device: str = "cpu",
    progress: bool = True,
) -> Results:
    """Run every entry on every task at every schedule, learning rate and seed, and write the report.

    A seed draws the task's instance, the initial weights and the batches, the same for every entry. Runs of
    one task, entry and seed advance together where that is faster; a short run alone times each entry on each
    task. What ``out`` already holds is not run again.

    Args:
        tasks: Names for `tasks.get_task`, or tasks, used as they are under every seed.
        entries: Names of `BASELINES`, or entries; their names are distinct.
        seeds: The seeds, or their number (0, 1, ...).
        steps: Steps of every run, or by task; the task's ``default_steps`` where that says nothing. Known
            tasks that do not take part are left out.
        schedules: Keys of `SCHEDULES`.
        learning_rates: Exactly these for all entries; each entry's own sweep and default if None.
        out: Folder for ``cells.jsonl``, ``timings.jsonl``, ``results.json``, ``index.html``, the plots, and
            in ``minima`` the least values against which some tasks report a gap.
        references: Names of the entries over the best of which speed-ups are figured; baselines that do not
            take part are left out.
        suite: Name of the suite that the tasks are, for the record; empty for a free choice.
        select: What a tuned setting is chosen by, a key of `SELECTION`.
        workers: Processes, one thread and one core each; 0 runs everything in this process, which a dying
            optimizer takes with it and a hanging one stops.
        time_limit: Seconds for a group of runs that advance together, or for a run alone, after which its
            process is killed and its runs are tried in halves; a single one failed then. It needs workers.
        device: Where parameters and batches live, e.g. ``"cpu"`` or ``"cuda"``.
        progress: Whether to show a progress bar with the time left.

    Returns:
        All cells and the summary; the same as in ``out/results.json``.

    Raises:
        ValueError: If a name is unknown, or a list is empty or has duplicates, or a number is out of range,
            or a task does not measure its metric.
        OSError: If ``out`` cannot be written.
        BenchmarkInterrupted: On Ctrl-C; what has finished is on disk.
    """
    context, settings = check_benchmark(
        tasks,
        entries,
        seeds=seeds,
        steps=steps,
        schedules=schedules,
        learning_rates=learning_rates,
        out=out,
        references=references,
        suite=suite,
        select=select,
        workers=workers,
        time_limit=time_limit,
        device=device,
    )
    infos, cells = _plan(context, settings, steps)
    folder = writable_folder(out)
    results, timings = run_missing(
        context, cells, folder, workers=workers, time_limit=time_limit, progress=progress
    )
    collected = Results(settings, infos, results, timings, *summarise(settings, infos, results, timings))
    write_report(collected, folder)
    return collected


def check_benchmark(
    tasks: Sequence[str | Task],
    entries: Sequence[str | Entry],
    *,
    seeds: int | Sequence[int],
    steps: int | Mapping[str, int] | None,
    schedules: Sequence[str],
    learning_rates: Sequence[float] | None,
    out: str | Path,
    references: Sequence[str],
    suite: str,
    select: Select,
    workers: int,
    time_limit: float,
    device: str,
) -> tuple[Context, Settings]:
    """Refuse what `run_benchmark` would, without running or writing anything.

    The arguments are those of `run_benchmark`, whose defaults stand there alone; entries that are still to be
    made may be left out.

    Returns:
        What the runs need, and all that was chosen.

    Raises:
        ValueError: If a name of an entry, a schedule or a selection is unknown, or one of ``steps``, or a
            list is empty or has duplicates, or a number is out of range.
    """
    for task in tasks:
        if not isinstance(task, str):
            require_name("a task", task.name)
    chosen_tasks = _named([(task if isinstance(task, str) else task.name, task) for task in tasks], "tasks")
    for name in steps if isinstance(steps, Mapping) else ():
        choose("task in steps", name, {**TASKS, **chosen_tasks})
    contestants = [get_entry(entry) if isinstance(entry, str) else entry for entry in entries]
    chosen_entries = _named([(entry.name, entry) for entry in contestants], "entries")
    settings = _settings(
        chosen_entries, seeds, steps, schedules, learning_rates, references, device, suite, select
    )
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    if not time_limit > 0:
        raise ValueError(f"time_limit must be above 0 seconds, got {time_limit}")
    context = Context(chosen_tasks, chosen_entries, device, Path(out) / "minima")
    if workers:
        _require_picklable(context)
    return context, settings


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
    if not chosen_seeds or len(set(chosen_seeds)) < len(chosen_seeds):
        raise ValueError(f"expected at least one seed, each once, got {seeds!r}")
    for seed in chosen_seeds:
        require_seed(seed)
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
        references=_taking_part(references, entries),
        device=device,
        suite=suite,
        select=select,
    )


def _taking_part(references: Sequence[str], entries: Mapping[str, Entry]) -> tuple[str, ...]:
    """Those of the references that are entries; the others have to be baselines at least."""
    if isinstance(references, str):
        raise ValueError(f"references is the string {references!r}; expected a sequence of names")
    for name in references:
        if name not in entries:
            get_entry(name)
    return tuple(name for name in dict.fromkeys(references) if name in entries)


def _plan(
    context: Context, settings: Settings, steps: int | Mapping[str, int] | None
) -> tuple[dict[str, TaskInfo], list[Cell]]:
    """Every cell in the order in which they run: seeds outermost, so that a stopped run is a smaller one."""
    infos: dict[str, TaskInfo] = {}
    contents: dict[tuple[str, int], str] = {}
    judged = _validation_fingerprints(context)
    for name, seed in itertools.product(context.tasks, settings.seeds):
        task = context.instance(name, seed)
        given = steps.get(name) if isinstance(steps, Mapping) else steps
        length = given or task.default_steps
        infos.setdefault(name, TaskInfo(name, task.description, task.metric, length, task.higher_is_better))
        contents[name, seed] = task_fingerprint(task, seed) + judged.get(name, "")
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


def _validation_fingerprints(context: Context) -> dict[str, str]:
    """How the tasks judge that were given as objects; named ones do as this package says."""
    with minima_kept_in(context.minima):
        return {
            name: f" {validation_fingerprint(task)}"
            for name, task in context.tasks.items()
            if not isinstance(task, str)
        }


def _named(pairs: list[tuple[str, T]], what: str) -> dict[str, T]:
    names = [name for name, _ in pairs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected at least one of {what}, with distinct names, got {names}")
    return dict(pairs)


def _require_picklable(context: Context) -> None:
    for name, item in (*context.entries.items(), *context.tasks.items()):
        try:
            pickle.dumps(item)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be sent to a worker process ({one_line(error)}); "
                "use module-level functions, or workers=0"
            ) from error
