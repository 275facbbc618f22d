"""A benchmark's results read back from ``results.json``, as far as comparisons and figures need them."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from tasks.base import HIGHER_IS_BETTER
from tasks.benchmark.figures.metrics import Interval, Sensitivity
from tasks.benchmark.figures.profiles import Profile
from tasks.benchmark.figures.summary import INTERVALS, Choice, Headline, Summary
from tasks.benchmark.results import FORMAT, VERSION
from tasks.benchmark.settings import TaskInfo

Record = dict[str, Any]
Made = TypeVar("Made")
SETTINGS = ("suite", "seeds", "schedules", "references", "select", "device", "optimizers")


@dataclass(frozen=True)
class SavedResults:
    """What ``results.json`` holds; its fields are in ``docs/benchmark.md``.

    Attributes:
        name: The file's folder as given, for messages.
        settings: The field ``settings``.
        environment: The field ``environment``.
        tasks: The tasks, by name.
        headlines: As in `Results`.
        profiles: As in `Results`.
        summaries: As in `Results`, by task, optimizer and choice of setting.
        timings: Records by task and optimizer.
        cells: Records of all runs.
    """

    name: str
    settings: Record
    environment: Record
    tasks: dict[str, TaskInfo]
    headlines: tuple[Headline, ...]
    profiles: tuple[Profile, ...]
    summaries: dict[tuple[str, str, Choice], Summary]
    timings: dict[tuple[str, str], Record]
    cells: tuple[Record, ...]

    @property
    def optimizers(self) -> dict[str, Record]:
        """What is known of every entry, by its name."""
        return {record["name"]: record for record in self.settings["optimizers"]}


def load_results(path: str | os.PathLike[str]) -> SavedResults:
    """Read a benchmark's results.

    Args:
        path: ``results.json``, the same packed by gzip as ``results.json.gz``, or the folder that holds one.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such file, of another version, or damaged.
    """
    file = Path(path)
    if file.is_dir():
        plain, packed = file / "results.json", file / "results.json.gz"
        file = packed if packed.exists() and not plain.exists() else plain
    if not file.is_file():
        why = "holds no results.json" if Path(path).is_dir() else "is not there"
        raise FileNotFoundError(f"{path} {why}; expected the folder of a benchmark, or its results.json")
    try:
        content = file.read_bytes()
        document = json.loads(gzip.decompress(content) if file.suffix == ".gz" else content)
    except (ValueError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is no JSON file, or a damaged one: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{file} holds no benchmark's results: expected an object of format {FORMAT!r}")
    if document.get("version") != VERSION:
        raise ValueError(
            f"{file} is of version {document.get('version')!r}, expected {VERSION}; "
            "run that benchmark again in its folder, which writes the file anew"
        )
    try:
        return _read(str(file.parent), document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {type(error).__name__}: {error}") from error


def _read(name: str, document: Record) -> SavedResults:
    settings = dict(document["settings"])
    for field in SETTINGS:
        settings[field]
    tasks = [
        _made(TaskInfo, {"higher_is_better": record["metric"] in HIGHER_IS_BETTER, **record})
        for record in settings["tasks"]
    ]
    summaries = [_summary(record) for record in document["summary"]]
    saved = SavedResults(
        name,
        settings,
        dict(document["environment"]),
        {task.name: task for task in tasks},
        tuple(_headline(record) for record in document["headlines"]),
        tuple(_profile(record) for record in document["profiles"]),
        {(one.task, one.optimizer, one.choice): one for one in summaries},
        {(record["task"], record["optimizer"]): dict(record) for record in document["timings"]},
        tuple(dict(record) for record in document["cells"]),
    )
    unknown = {one.optimizer for one in summaries} - saved.optimizers.keys()
    unknown |= {one.task for one in summaries} - saved.tasks.keys()
    if unknown:
        raise ValueError(f"a summary of {', '.join(sorted(unknown))}, which the settings do not know")
    return saved


def _headline(record: Record) -> Headline:
    speedup = {"value": record["speedup_iqm"], "low": record["low"], "high": record["high"]}
    changed: Record = {name: _interval(record[name]) for name in ("wall_speedup", "improvement")}
    changed |= {name: tuple(record[name]) for name in ("references", "tasks", "steps", "seeds")}
    changed["speedup"] = _interval(speedup if record["speedup_iqm"] is not None else None)
    return _made(Headline, {**record, **changed})


def _profile(record: Record) -> Profile:
    numbers = {name: tuple(map(float, record[name])) for name in ("ratios", "share", "low", "high")}
    return _made(Profile, {**record, **numbers})


def _summary(record: Record) -> Summary:
    changed: Record = {name: _interval(record[name]) for name in INTERVALS}
    validation, rates = record["validation"], record["sensitivity"]
    changed["validation"] = validation and {name: _interval(one) for name, one in validation.items()}
    changed["sensitivity"] = rates and _made(Sensitivity, rates)
    return _made(Summary, {**record, **changed})


def _interval(record: Mapping[str, Any] | None) -> Interval | None:
    if record is None:
        return None
    value, *limits = (record[name] for name in ("value", "low", "high"))
    low, high = (None if limit is None else float(limit) for limit in limits)
    return Interval(float(value), low, high)


def _made(kind: type[Made], record: Record) -> Made:
    """A dataclass from a record that holds its fields, and perhaps others."""
    return kind(**{field.name: record[field.name] for field in fields(kind)})  # type: ignore[arg-type]
