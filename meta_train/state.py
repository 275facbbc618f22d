"""The state that a killed run continues from."""

import io
import json
from pathlib import Path
from typing import Any

import torch

from meta_train.config import MetaTrainConfig
from tasks.files import atomic_write_bytes

STATE_NAME = "state.pt"
FORMAT_VERSION = 1


def save_state(folder: Path, config: MetaTrainConfig, state: dict[str, Any]) -> None:
    """Write the state of a run in one piece, with the configuration that it belongs to."""
    buffer = io.BytesIO()
    record = {"format_version": FORMAT_VERSION, "config": json.dumps(config.as_json()), "state": state}
    torch.save(record, buffer)
    atomic_write_bytes(folder / STATE_NAME, buffer.getvalue())


def load_state(folder: Path, config: MetaTrainConfig, *, resume: bool) -> dict[str, Any] | None:
    """Read the state of a run, or None where a new one begins.

    Raises:
        ValueError: If ``folder`` holds a run that is not to be resumed, none where one is, one that cannot be
            read, or one of another configuration; the differing fields are named.
    """
    path = folder / STATE_NAME
    if not resume:
        if path.exists():
            raise ValueError(f"{folder} already holds a run; resume it or choose another folder")
        return None
    if not path.exists():
        raise ValueError(f"{folder} holds no run to resume: {STATE_NAME} is missing")
    try:
        record = torch.load(path, weights_only=True)
        version, saved, state = record["format_version"], json.loads(record["config"]), record["state"]
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}; expected {FORMAT_VERSION}")
    wanted = json.loads(json.dumps(config.as_json()))
    differing = sorted(key for key in wanted.keys() | saved.keys() if wanted.get(key) != saved.get(key))
    if differing:
        raise ValueError(
            f"{folder} holds a run of another configuration: "
            + "; ".join(f"{key} was {saved.get(key)}, now {wanted.get(key)}" for key in differing)
        )
    assert isinstance(state, dict)
    return state
