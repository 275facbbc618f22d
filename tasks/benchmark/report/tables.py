"""The tables of a benchmark's page: over all tasks, and for each."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from tasks.benchmark.contestants.entry import Entry
from tasks.benchmark.figures.metrics import Interval
from tasks.benchmark.figures.summary import Headline, Summary
from tasks.benchmark.report import page
from tasks.benchmark.report.looks import looks_of
from tasks.benchmark.report.page import Column, TableCell
from tasks.benchmark.report.wording import limits_text
from tasks.benchmark.results import Results
from tasks.benchmark.settings import TaskInfo

HEADER = (
    Column("optimizer"),
    Column("setting"),
    Column("final loss"),
    Column("validation"),
    Column("mean loss"),
    Column("speed-up", descending=True),
    Column("by the clock", descending=True),
    Column("P(better)", descending=True),
    Column("matched at", descending=True),
    Column("matches at"),
    Column("good lr", descending=True),
    Column("diverged"),
    Column("ms a step"),
    Column("state"),
)
OVERVIEW_HEADER = (
    Column("optimizer"),
    Column("speed-up, tuned", descending=True, sorted_by=True),
    Column("speed-up, default lr", descending=True),
    Column("by the clock, tuned", descending=True),
    Column("P(better), tuned", descending=True),
    Column("diverged"),
    Column("failed"),
    Column("step time"),
    Column("state floats"),
    Column("is also given"),
)
NONE = TableCell("–", key="")
TAKES = {"loss": "losses", "steps": "number of steps", "graph": "differentiable gradients"}


def overview_table(results: Results) -> page.Html:
    """One row an optimizer, over all tasks, the fastest first and the learned ones bold."""
    learned = {entry.label for entry in results.settings.entries if entry.kind == "learned"}
    rows = overview_rows(results)
    strong = [index for index, cells in enumerate(rows) if cells[0].text in learned]
    return page.table(OVERVIEW_HEADER, rows, strong=strong, sortable=True)


def overview_rows(results: Results) -> list[list[TableCell]]:
    """A row for every optimizer in the order of `OVERVIEW_HEADER`, the fastest first."""
    rows = [_overview_row(results, entry) for entry in results.settings.entries]
    return sorted(rows, key=lambda cells: _rank(cells[1]))


def task_table(results: Results, task: TaskInfo) -> page.Html:
    """One row for every optimizer and choice of setting, in the order of the benchmark."""
    rows, strong = task_rows(results, task)
    return page.table(HEADER, rows, strong=strong, sortable=True)


def task_rows(results: Results, task: TaskInfo) -> tuple[list[list[TableCell]], list[int]]:
    """The rows of a task in the order of `HEADER`, and the places of those with the lowest final loss."""
    summaries = [summary for summary in results.summaries if summary.task == task.name]
    best = min((one.final_loss.value for one in summaries if one.final_loss), default=None)
    strong = [k for k, one in enumerate(summaries) if one.final_loss and one.final_loss.value == best]
    return [row(results, task, one) for one in summaries], strong


def row(results: Results, task: TaskInfo, summary: Summary) -> list[TableCell]:
    """The cells of a task's line, in the order of `HEADER`."""
    entry = results.settings.entry(summary.optimizer)
    name = entry.label if summary.choice == "tuned" else f"{entry.label}, default"
    swatch = looks_of(results.settings)[entry.name].swatch(default=summary.choice == "default")
    first = TableCell(name, mark=swatch)
    if summary.final_loss is None or summary.validation is None:
        nothing = TableCell("none finished", key="", bad=True)
        return [first, nothing, *[NONE] * 9, _unfinished(summary), NONE, NONE]
    races = results.settings.races(entry.name)
    return [
        first,
        TableCell(f"{summary.learning_rate:.2g} {summary.schedule}", key=summary.learning_rate),
        figure(summary.final_loss, "{:.3g}"),
        _metric(task, summary.validation),
        figure(summary.mean_loss, "{:.3g}"),
        figure(summary.speedup if races else None, "{:.2f}", "×"),
        figure(summary.wall_speedup if races else None, "{:.2f}", "×"),
        figure(summary.improvement if races else None, "{:.0%}"),
        _step(summary.matched_at, task) if races else NONE,
        _step(summary.matches_at, task) if races else NONE,
        _good_rates(summary),
        _unfinished(summary),
        _number(summary.ms_per_step, "{:.3f}"),
        _number(summary.state_floats, "{:.2f}"),
    ]


def failure_table(results: Results) -> page.Html:
    """What failed, by optimizer, task and message, with the settings of the runs."""
    groups: dict[tuple[str, str, str], list[tuple[float, int]]] = {}
    for run in results.failures():
        key = (run.cell.optimizer, run.cell.task, run.error)
        groups.setdefault(key, []).append((run.cell.learning_rate, run.cell.seed))
    rows = []
    for (optimizer, task, message), runs in groups.items():
        rates, seeds = sorted({rate for rate, _ in runs}), sorted({seed for _, seed in runs})
        spread = f"{rates[0]:.2g}" if len(rates) == 1 else f"{rates[0]:.2g} to {rates[-1]:.2g}"
        label = results.settings.entry(optimizer).label
        where = f"lr {spread}; seeds {', '.join(map(str, seeds))}"
        rows.append((label, task, f"{len(runs):,}", where, TableCell(message, bad=True)))
    return page.table(("optimizer", "task", "runs", "settings", "message"), rows, wrap=True)


def figure(interval: Interval | None, form: str, unit: str = "") -> TableCell:
    """A figure above its interval, or a dash."""
    if interval is None:
        return NONE
    text = form.format(interval.value) + unit
    return TableCell(text, key=interval.value, note=limits_text(interval, form))


def taken(entry: Entry) -> str:
    """What an optimizer is given beyond gradients and its learning rate."""
    return " and ".join(TAKES[need] for need in entry.takes) or "–"


def relative_step_time(results: Results, optimizer: str) -> float | None:
    """An optimizer's own time a step over that of `step_time_unit`, the geometric mean over the tasks."""
    unit = step_time_unit(results)
    ratios = [
        results.timings[task, optimizer].step_seconds / results.timings[task, unit].step_seconds
        for task in results.tasks
        if unit and (task, optimizer) in results.timings and (task, unit) in results.timings
    ]
    return math.exp(float(np.mean(np.log(ratios)))) if ratios else None


def step_time_unit(results: Results) -> str | None:
    """Adam, or whatever is the first reference where it does not take part."""
    names = [entry.name for entry in results.settings.entries]
    return "adam" if "adam" in names else next(iter(results.settings.references), None)


def _overview_row(results: Results, entry: Entry) -> list[TableCell]:
    tuned, default = (_headline(results, entry.name, choice) for choice in ("tuned", "default"))
    statuses = Counter(run.status for run in results.cells if run.cell.optimizer == entry.name)
    diverged, failed = (statuses[name] / max(1, statuses.total()) for name in ("diverged", "failed"))
    states = [one.state_floats for (_, name), one in results.timings.items() if name == entry.name]
    return [
        TableCell(entry.label, mark=looks_of(results.settings)[entry.name].swatch()),
        figure(tuned.speedup if tuned else None, "{:.2f}", "×"),
        figure(default.speedup if default else None, "{:.2f}", "×"),
        figure(tuned.wall_speedup if tuned else None, "{:.2f}", "×"),
        figure(tuned.improvement if tuned else None, "{:.0%}"),
        TableCell(f"{diverged:.1%}" if diverged else "0", key=diverged),
        TableCell(f"{failed:.1%}" if failed else "0", key=failed, bad=failed > 0),
        _number(relative_step_time(results, entry.name), "{:.2f}×"),
        _number(float(np.median(states)) if states else None, "{:.2f}"),
        TableCell(taken(entry)),
    ]


def _headline(results: Results, optimizer: str, choice: str) -> Headline | None:
    found = (one for one in results.headlines if (one.optimizer, one.choice) == (optimizer, choice))
    return next(found, None)


def _rank(cell: TableCell) -> float:
    return -cell.key if isinstance(cell.key, float) else math.inf


def _metric(task: TaskInfo, validation: dict[str, Interval]) -> TableCell:
    if task.metric == "accuracy":
        return figure(validation[task.metric], "{:.1%}")
    return figure(validation[task.metric], "{:.3g}", f" {task.metric}" if task.metric != "loss" else "")


def _good_rates(summary: Summary) -> TableCell:
    found = summary.sensitivity
    if found is None:
        return NONE
    return TableCell(f"{'≥ ' if found.open_ended else ''}{found.factor:.3g}×", key=found.factor)


def _unfinished(summary: Summary) -> TableCell:
    """Share of the runs that diverged; of those that failed if there are any."""
    note = f"{summary.failed:.0%} failed" if summary.failed else ""
    share = summary.diverged + summary.failed
    return TableCell(f"{summary.diverged:.0%}", key=share, note=note, bad=bool(summary.failed))


def _step(step: int | None, task: TaskInfo) -> TableCell:
    return TableCell(f"{step:,}" if step else f"> {task.steps:,}", key=float(step or task.steps + 1))


def _number(value: float | None, form: str) -> TableCell:
    return NONE if value is None else TableCell(form.format(value), key=value)
