"""What a run writes while it goes: JSON lines and TensorBoard events."""

import json
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from tasks.files import atomic_write_text

LOG_NAME = "log.jsonl"

Record = dict[str, Any]


class JsonLines:
    """A file of one JSON object a line.

    Args:
        path: The file.
        keep: Which of its records stay; a resumed run writes those after its checkpoint again. None do by
            default.
    """

    def __init__(self, path: Path, *, keep: Callable[[Record], bool] | None = None) -> None:
        self.path = path
        kept = [record for record in read_lines(path) if keep(record)] if keep else []
        atomic_write_text(path, "".join(json.dumps(record) + "\n" for record in kept))

    def write(self, record: Record) -> Record:
        """Append a record, and give it as written: a number that is not finite becomes null."""
        record = {
            name: None if isinstance(value, float) and not isfinite(value) else value
            for name, value in record.items()
        }
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        return record


class RunLog:
    """Appends one record at a time to ``log.jsonl`` and to TensorBoard.

    Args:
        folder: Of the run.
        resumed_at: Outer step that a resumed run continues from; records after it are dropped, since the
            run will write them again.
    """

    def __init__(self, folder: Path, *, resumed_at: int = 0) -> None:
        keep = (lambda record: record["step"] <= resumed_at) if resumed_at else None
        self.lines = JsonLines(folder / LOG_NAME, keep=keep)
        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_at or None)

    def write(self, record: Record) -> None:
        """Append a record with its step under ``step``; a number that is not finite becomes null."""
        add_scalars(self.events, self.lines.write(record))

    def figure(self, name: str, draw: Callable[[], Figure], step: int) -> None:
        """Add a picture to TensorBoard."""
        self.events.add_figure(name, draw(), step)

    def flush(self) -> None:
        """Write out what is buffered."""
        self.events.flush()

    def close(self) -> None:
        """Write out what is buffered and stop."""
        self.events.close()


class SilentLog:
    """The log of a process that leaves logging to another."""

    def write(self, record: Record) -> None:
        """Write nothing."""

    def figure(self, name: str, draw: Callable[[], Figure], step: int) -> None:
        """Draw nothing."""

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """There is nothing to close."""


def add_scalars(events: SummaryWriter, record: Record) -> None:
    """Add the numbers of a record to TensorBoard at its ``step``."""
    for name, value in record.items():
        if name != "step" and isinstance(value, int | float):
            events.add_scalar(name, value, record["step"])


def read_log(folder: Path) -> list[Record]:
    """Records of a run's log in order; a last line that was cut short is left out."""
    return read_lines(folder / LOG_NAME)


def read_lines(path: Path) -> list[Record]:
    """Records of a file of JSON lines in order; none where there is no file, nor a last line cut short."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
