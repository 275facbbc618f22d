"""Finished work on disk: one JSON line a record, appended as it comes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tasks.benchmark.running.cell import CellResult
from tasks.benchmark.running.timing import Timing


class Record(Protocol):
    """What can be kept."""

    def to_record(self) -> dict[str, Any]:
        """A JSON object; its ``"key"`` is what it is found under."""


R = TypeVar("R", bound=Record)


class Store(Generic[R]):
    """A file of records.

    Lines that cannot be read, as after a kill in mid-write, are skipped.

    Args:
        path: The file; created with the first record.
        read: Turns a JSON object into a record, or raises.
        counts: Whether a record that was read is as good as done.

    Attributes:
        unreadable: Number of lines that were skipped.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[dict[str, Any]], R],
        counts: Callable[[R], bool] = lambda record: True,
    ) -> None:
        self.path, self._read, self._counts = path, read, counts
        self.unreadable = 0
        self._by_key = self._load()

    def get(self, key: str) -> R | None:
        """The record of that key, if it is done."""
        return self._by_key.get(key)

    def append(self, *records: R) -> None:
        """Add records and sync them to disk.

        Raises:
            OSError: If the file cannot be written.
        """
        lines = "".join(json.dumps(record.to_record(), allow_nan=False) + "\n" for record in records)
        with self.path.open("ab") as file:
            if file.tell() and not self._ends_with_newline():
                file.write(b"\n")
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())

    def _load(self) -> dict[str, R]:
        found: dict[str, R] = {}
        if not self.path.exists():
            return found
        for line in self.path.read_bytes().splitlines():
            try:
                content = json.loads(line)
                record, key = self._read(content), content["key"]
            except (ValueError, KeyError, TypeError, AttributeError):
                self.unreadable += 1
                continue
            if self._counts(record):
                found[key] = record
        return found

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def cell_store(folder: Path) -> Store[CellResult]:
    """The runs of a benchmark folder, in ``cells.jsonl``; those that failed do not count as done."""
    return Store(
        folder / "cells.jsonl", CellResult.from_record, counts=lambda result: result.status != "failed"
    )


def timing_store(folder: Path) -> Store[Timing]:
    """The timings of a benchmark folder, in ``timings.jsonl``."""
    return Store(folder / "timings.jsonl", Timing.from_record)
