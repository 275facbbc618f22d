"""The state that a killed run continues from: a folder for each checkpoint, the last two kept."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any
from warnings import warn

import torch

from meta_train.config import MetaTrainConfig
from meta_train.ranks import Ranks
from tasks.files import atomic_write_bytes, sync_folder

STATE_NAME = "state"
MAIN = "main.pt"
FORMAT_VERSION = 2
KEPT = 2


class CheckpointFailedError(OSError):
    """A checkpoint could not be written; the one before it is whole."""


def save_state(
    folder: Path,
    config: MetaTrainConfig,
    step: int,
    main: dict[str, Any],
    units: dict[int, Any],
    ranks: Ranks,
) -> None:
    """Write a checkpoint of all processes.

    Each writes its own units into a folder of another name, which takes its own when all of them are on disk.

    Args:
        folder: Of the run.
        config: That the state belongs to.
        step: Outer steps done.
        main: What all processes know; the first one writes it.
        units: State of this process's units, by their number.
        ranks: The processes.

    Raises:
        CheckpointFailedError: On every process, if one could not write its part.
    """
    states = folder / STATE_NAME
    done, partial = states / f"{step:09d}", states / f"{step:09d}.partial"
    if done.exists():
        return
    error: OSError | None = None
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for index, unit in units.items():
            atomic_write_bytes(partial / _unit_name(index), _packed(unit))
        if ranks.rank == 0:
            record = {"format_version": FORMAT_VERSION, "config": json.dumps(config.as_json()), "state": main}
            atomic_write_bytes(partial / MAIN, _packed(record))
    except OSError as caught:
        error = caught
    if ranks.agree(error is None) and ranks.rank == 0:
        try:
            os.replace(partial, done)
            sync_folder(states)
            _prune(states)
        except OSError as caught:
            error = caught
    if not ranks.agree(error is None):
        if ranks.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        reason = error or "another process failed"
        last = _checkpoints(folder)[:1]
        kept = (
            f"the last good one is of outer step {int(last[0].name)}" if last else "there is none before it"
        )
        raise CheckpointFailedError(f"no checkpoint could be written at outer step {step} ({reason}); {kept}")


def has_state(folder: Path) -> bool:
    """Whether a folder holds a run to resume."""
    return bool(_checkpoints(folder))


def load_state(folder: Path, config: MetaTrainConfig, *, resume: bool) -> tuple[dict[str, Any], Path] | None:
    """Read the newest whole checkpoint of a run, or None where a new run begins.

    Returns:
        What all processes know, and the folder for `load_unit`.

    Raises:
        ValueError: If ``folder`` holds a run that is not to be resumed, none where one is, none that can be
            read, or one of another configuration; the differing fields are named.
    """
    found = _checkpoints(folder)
    if not resume:
        if found:
            raise ValueError(f"{folder} already holds a run; resume it or choose another folder")
        return None
    if not found:
        raise ValueError(f"{folder} holds no run to resume: {STATE_NAME} has no checkpoint")
    for checkpoint in found:
        try:
            record = torch.load(checkpoint / MAIN, weights_only=True)
            version, saved, state = record["format_version"], json.loads(record["config"]), record["state"]
        except Exception as error:
            warn(f"{checkpoint} cannot be read and is passed over: {error}", stacklevel=2)
            continue
        if version != FORMAT_VERSION:
            raise ValueError(f"{checkpoint} has format version {version}; expected {FORMAT_VERSION}")
        _refuse_other(folder, config, saved)
        assert isinstance(state, dict)
        return state, checkpoint
    raise ValueError(f"none of the checkpoints in {folder / STATE_NAME} can be read")


def load_unit(checkpoint: Path, index: int) -> Any:
    """State of a unit.

    Raises:
        ValueError: If it cannot be read; the message says what to do.
    """
    path = checkpoint / _unit_name(index)
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({error}); remove {checkpoint} to go on from the checkpoint before it"
        ) from error


def _refuse_other(folder: Path, config: MetaTrainConfig, saved: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(config.as_json()))
    differing = sorted(key for key in wanted.keys() | saved.keys() if wanted.get(key) != saved.get(key))
    if differing:
        raise ValueError(
            f"{folder} holds a run of another configuration: "
            + "; ".join(f"{key} was {saved.get(key)}, now {wanted.get(key)}" for key in differing)
        )


def _checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, the newest first."""
    return sorted((path for path in (folder / STATE_NAME).glob("*") if path.name.isdigit()), reverse=True)


def _prune(states: Path) -> None:
    for old in _checkpoints(states.parent)[KEPT:]:
        shutil.rmtree(old)
    for partial in states.glob("*.partial"):
        shutil.rmtree(partial)


def _unit_name(index: int) -> str:
    return f"unit-{index:05d}.pt"


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
