"""What a run writes while it goes: JSON lines and TensorBoard events."""

import json
from math import isfinite
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from tasks.files import atomic_write_text

LOG_NAME = "log.jsonl"


class RunLog:
    """Appends one record at a time to ``log.jsonl`` and to TensorBoard.

    Args:
        folder: Of the run.
        resumed_at: Outer step that a resumed run continues from; records after it are dropped, since the
            run will write them again.
    """

    def __init__(self, folder: Path, *, resumed_at: int = 0) -> None:
        self.path = folder / LOG_NAME
        kept = [record for record in read_log(folder) if record["step"] <= resumed_at] if resumed_at else []
        atomic_write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_at or None)

    def write(self, record: dict[str, Any]) -> None:
        """Append a record with its outer step under ``step``; a number that is not finite becomes null."""
        record = {name: value if isfinite(value) else None for name, value in record.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for name, value in record.items():
            if name != "step" and value is not None:
                self.events.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write out what is buffered."""
        self.events.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Records of a run's log in order; a last line that was cut short is left out."""
    path = folder / LOG_NAME
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
