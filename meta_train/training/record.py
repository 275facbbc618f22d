"""What a training run writes beside its checkpoints: its configuration, and figures by step and by epoch."""

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from meta_train.log import LOG_NAME, JsonLines, add_scalars
from meta_train.training.fit import Progress
from meta_train.training.manifest import Manifest, write_manifests
from tasks.files import atomic_write_text

CONFIG_NAME, METRICS_NAME = "config.json", "metrics.jsonl"
PACKAGES = ("learned-opt", "torch", "torchvision", "timm", "numpy", "pillow")


class RunRecord:
    """Appends figures to ``log.jsonl`` by step, to ``metrics.jsonl`` by epoch, and both to TensorBoard.

    Args:
        folder: Of the run.
        resumed: Where a resumed run goes on; later figures are dropped, since it will write them again, and
            a new run drops all.
    """

    def __init__(self, folder: Path, *, resumed: Progress | None = None) -> None:
        at = resumed or Progress()
        self.steps = JsonLines(folder / LOG_NAME, keep=lambda record: record["step"] <= at.step)
        self.epochs = JsonLines(folder / METRICS_NAME, keep=lambda record: record["epoch"] <= at.epoch)
        events = folder / "tensorboard"
        if resumed is None:
            for earlier in events.glob("events.out.tfevents.*"):
                earlier.unlink()
        self.events = SummaryWriter(str(events), purge_step=resumed and at.step + 1)

    def add_step(self, figures: dict[str, Any]) -> None:
        """Append figures of a step, with its number under ``step``."""
        add_scalars(self.events, self.steps.write(figures))

    def add_epoch(self, figures: dict[str, Any]) -> None:
        """Append figures of an epoch, with its number under ``epoch`` and its last step under ``step``."""
        written = self.epochs.write(figures)
        add_scalars(
            self.events,
            {name if name == "step" else f"epoch/{name}": value for name, value in written.items()},
        )

    def close(self) -> None:
        """Write out what is buffered."""
        self.events.close()


def write_config(
    folder: Path,
    options: Mapping[str, Any],
    manifests: Mapping[str, Manifest],
    *,
    processes: int,
    device: str,
) -> None:
    """Write what is being run, on which data and with what.

    Args:
        folder: Of the run.
        options: Of the command.
        manifests: What is read, by split.
        processes: How many train together.
        device: Where they compute.
    """
    document = {
        "options": dict(options),
        "data": {split: manifest.as_json() for split, manifest in manifests.items()},
        "processes": processes,
        "device": device,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": _commit(),
    }
    write_manifests(folder, manifests)
    atomic_write_text(folder / CONFIG_NAME, json.dumps(document, indent=2, default=str) + "\n")


def _commit() -> str | None:
    """The commit of this package's checkout, marked if it has changes; None where it was installed."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() or None
