"""Two benchmarks side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tasks.benchmark.figures.metrics import Interval
from tasks.benchmark.figures.summary import Choice
from tasks.benchmark.report.wording import interval_text
from tasks.benchmark.saved import SavedResults

HEADLINES = {
    "speedup": ("speed-up", "{:.2f}", "×"),
    "wall_speedup": ("by the clock", "{:.2f}", "×"),
    "improvement": ("P(better)", "{:.0%}", ""),
}
LOSSES = {"final_loss": ("final loss", "{:.4g}", ""), "speedup": ("speed-up", "{:.2f}", "×")}
NONE = "–"


class IncomparableError(ValueError):
    """Two results whose figures mean different things."""


def compare(first: SavedResults, second: SavedResults) -> Table:
    """The figures of two results of equal settings, side by side, for ``rich.print``.

    Args:
        first: One.
        second: Another, on the same tasks, steps and seeds, against the same references; other optimizers
            may differ, and so may the versions and the hardware.

    Returns:
        A table of the headlines and of each task's figures, for whatever optimizer is in either.

    Raises:
        IncomparableError: If their settings differ, in what.
    """
    if differences := list(_differences(first, second)):
        raise IncomparableError(
            f"{first.name} and {second.name} cannot be compared: {'; '.join(differences)}"
        )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for title in ("optimizer", "figure", first.name, second.name):
        table.add_column(escape(title), justify="left" if title in ("optimizer", "figure") else "right")
    blocks = [("all tasks", _headline_rows(first, second))]
    blocks += [(task, _task_rows(first, second, task)) for task in first.tasks]
    for title, rows in blocks:
        table.add_row(Text(title, style="bold"))
        for cells in rows:
            table.add_row(*map(Text, cells))
        table.add_section()
    return table


def changes(first: SavedResults, second: SavedResults) -> list[str]:
    """What else differs and may explain figures: optimizers of one name, versions, hardware; a line each."""
    lines = [
        f"{name} is another optimizer in each, or of another version: fingerprints {ours} and {theirs}"
        for name, record in first.optimizers.items()
        if name in second.optimizers
        and (ours := record["fingerprint"]) != (theirs := second.optimizers[name]["fingerprint"])
    ]
    names = list(dict.fromkeys([*first.environment, *second.environment]))
    pairs = [(name, first.environment.get(name), second.environment.get(name)) for name in names]
    pairs.append(("device", first.settings["device"], second.settings["device"]))
    return lines + [f"{name}: {ours} and {theirs}" for name, ours, theirs in pairs if ours != theirs]


def _differences(first: SavedResults, second: SavedResults) -> Iterator[str]:
    """Each difference of what figures depend on, in words."""
    sides = [_compared(first), _compared(second)]
    for name, ours in sides[0].items():
        theirs = sides[1][name]
        if ours != theirs:
            yield f"{name} differ: {_shown(ours)} and {_shown(theirs)}"


def _compared(results: SavedResults) -> dict[str, Any]:
    settings = results.settings
    references = [results.optimizers[name] for name in settings["references"]]
    return {
        "suites": settings["suite"] or "none",
        "tasks": sorted(results.tasks),
        "steps": {name: results.tasks[name].steps for name in sorted(results.tasks)},
        "metrics": {name: results.tasks[name].metric for name in sorted(results.tasks)},
        "seeds": sorted(settings["seeds"]),
        "schedules": sorted(settings["schedules"]),
        "selections": settings["select"],
        "references": sorted(settings["references"]),
        "learning rates of the references": {one["name"]: one["learning_rates"] for one in references},
    }


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items()) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _headline_rows(first: SavedResults, second: SavedResults) -> Iterator[tuple[str, ...]]:
    sides = [{(line.optimizer, line.choice): line for line in one.headlines} for one in (first, second)]
    for optimizer, choice in dict.fromkeys([*sides[0], *sides[1]]):
        lines = [side.get((optimizer, choice)) for side in sides]
        for field, (title, form, unit) in HEADLINES.items():
            figures = [getattr(line, field, None) for line in lines]
            yield (
                _name(first, second, optimizer, choice),
                title,
                *(_figure(one, form, unit) for one in figures),
            )


def _task_rows(first: SavedResults, second: SavedResults, task: str) -> Iterator[tuple[str, ...]]:
    metric = first.tasks[task].metric
    keys = dict.fromkeys(key for one in (first, second) for key in one.summaries if key[0] == task)
    for key in keys:
        name = _name(first, second, key[1], key[2])
        summaries = [one.summaries.get(key) for one in (first, second)]
        for field, (title, form, unit) in LOSSES.items():
            yield name, title, *(_figure(getattr(one, field, None), form, unit) for one in summaries)
        measured = [one.validation.get(metric) if one and one.validation else None for one in summaries]
        yield name, f"validation {metric}", *(_figure(one, "{:.4g}", "") for one in measured)


def _name(first: SavedResults, second: SavedResults, optimizer: str, choice: Choice) -> str:
    label = str({**second.optimizers, **first.optimizers}[optimizer]["label"])
    return label if choice == "tuned" else f"{label}, default"


def _figure(interval: Interval | None, form: str, unit: str) -> str:
    return NONE if interval is None else interval_text(interval, form, unit)
