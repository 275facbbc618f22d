"""Finished cells on disk: one JSON line each, appended as they come."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tasks.benchmark.cell import CellResult


class CellStore:
    """The file ``cells.jsonl`` of a benchmark folder.

    Lines that cannot be read, as after a kill in mid-write, are skipped and their cells run again; so do
    cells that failed.

    Args:
        path: The file; created with the first result.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable = 0
        self._by_key = self._load()

    def get(self, key: str) -> CellResult | None:
        """The finished or diverged result of a cell, by its key."""
        return self._by_key.get(key)

    def append(self, result: CellResult) -> None:
        """Add a result and sync it to disk.

        Raises:
            OSError: If the file cannot be written.
        """
        line = json.dumps(result.to_record(), allow_nan=False) + "\n"
        with self.path.open("ab") as file:
            if file.tell() and not self._ends_with_newline():
                file.write(b"\n")
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def _load(self) -> dict[str, CellResult]:
        found: dict[str, CellResult] = {}
        if not self.path.exists():
            return found
        for line in self.path.read_bytes().splitlines():
            try:
                result = CellResult.from_record(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                self.unreadable += 1
                continue
            if result.status != "failed":
                found[result.cell.key] = result
        return found

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
