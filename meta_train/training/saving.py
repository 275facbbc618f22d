"""Checkpoints of a training run: the last two, each whole, so that a run may be killed at any moment."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from meta_train.alone import another_run
from tasks.files import atomic_file

CHECKPOINT_NAME, PREVIOUS_NAME = "checkpoint.pt", "checkpoint-previous.pt"
FORMAT_VERSION = 1


class NoCheckpointError(ValueError):
    """There is no checkpoint to go on from, or none that fits."""


def save_checkpoint(folder: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one before it is kept, that before it is not.

    At every moment ``checkpoint.pt`` is a whole checkpoint, once there has been one.

    Args:
        folder: Of the run.
        identity: What a run that goes on must have in common with this one, as JSON can hold it.
        state: Tensors and plain values.

    Raises:
        OSError: If it cannot be written; the checkpoints are then as they were.
    """
    path = folder / CHECKPOINT_NAME
    with atomic_file(path) as file:
        torch.save({"format_version": FORMAT_VERSION, "identity": json.dumps(identity), **state}, file)
        file.flush()
        _keep_previous(folder)


def remove_checkpoints(folder: Path) -> None:
    """Take away what a run before left, so that nothing goes on from it by mistake."""
    for name in (CHECKPOINT_NAME, PREVIOUS_NAME):
        (folder / name).unlink(missing_ok=True)


def load_checkpoint(folder: Path, identity: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Read the last checkpoint, or the one before where the last cannot be read; None if there is none.

    Args:
        folder: Of the run.
        identity: As `save_checkpoint`; nothing is compared without it.

    Raises:
        NoCheckpointError: If neither can be read, or it is of another run; what differs is named.
    """
    failures = []
    for name in (CHECKPOINT_NAME, PREVIOUS_NAME):
        if not (folder / name).exists():
            continue
        try:
            state = torch.load(folder / name, map_location="cpu", weights_only=True)
            saved, format_version = json.loads(state["identity"]), state["format_version"]
        except Exception as error:  # whatever is wrong with the file, there may be another
            failures.append(f"{name}: {' '.join(str(error).split())}")
            continue
        if format_version != FORMAT_VERSION:
            raise NoCheckpointError(f"{name} has format version {format_version}; expected {FORMAT_VERSION}")
        wanted = saved if identity is None else json.loads(json.dumps(identity))
        if why := another_run(folder, saved, wanted):
            raise NoCheckpointError(why)
        assert isinstance(state, dict)
        return state
    if failures:
        raise NoCheckpointError(f"no checkpoint in {folder} can be read: {'; '.join(failures)}")
    return None


def _keep_previous(folder: Path) -> None:
    """Let the last checkpoint be the one before, under its own name until another takes it."""
    last, previous = folder / CHECKPOINT_NAME, folder / PREVIOUS_NAME
    if not last.exists():
        previous.unlink(missing_ok=True)
        return
    linked = folder / f".{PREVIOUS_NAME}.tmp"
    linked.unlink(missing_ok=True)
    with suppress(OSError):  # where a file cannot have two names, there is one checkpoint
        os.link(last, linked)
        linked.replace(previous)
