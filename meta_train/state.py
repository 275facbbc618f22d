"""The state that a killed run continues from: a folder for each checkpoint, the last two kept."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any
from warnings import warn

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from learned_opt.checkpoint import CARD, CONFIG, WEIGHTS
from learned_opt.serial import SINCE_THEN, facts_to_json
from meta_train.alone import alone_in, another_run
from meta_train.config import MetaTrainConfig
from meta_train.log import LOG_NAME
from meta_train.ranks import Ranks
from tasks.files import atomic_write_bytes, sync_folder

STATE_NAME = "state"
MAIN = "main.pt"
FORMAT_VERSION = 2
KEPT = 2
MAY_CHANGE = frozenset({"checkpoint_seconds", "outer_steps"})
"""Of the configuration, when a run is resumed. Schedules then follow the new number of outer steps."""


class CheckpointFailedError(OSError):
    """A checkpoint could not be written; the one before it is whole."""


def save_state(
    folder: Path,
    config: MetaTrainConfig,
    step: int,
    main: dict[str, Any],
    units: dict[int, Any],
    ranks: Ranks,
    *,
    export: Callable[[], None],
) -> None:
    """Write a checkpoint of all processes.

    Each writes its own units into a folder of another name, which takes its own when all of them are on disk.

    Args:
        folder: Of the run.
        config: That the state belongs to.
        step: Outer steps done.
        main: What all processes know; the first one writes it. Its tensors must be the same everywhere.
        units: State of this process's units, by their number.
        ranks: The processes.
        export: Writes what else the run is to leave; called by the first process before the checkpoint
            counts, so that a run killed between the two does it again.

    Raises:
        CheckpointFailedError: On every process, if one could not write its part, wrote it into a folder that
            the first one does not see, or computed something else than the others.
    """
    states = folder / STATE_NAME
    done, partial = states / f"{step:09d}", states / f"{step:09d}.partial"
    error: OSError | None = None
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for index, unit in units.items():
            atomic_write_bytes(partial / _unit_name(index), _packed(unit))
        if ranks.rank == 0:
            record = {"format_version": FORMAT_VERSION, "config": json.dumps(config.as_json()), "state": main}
            atomic_write_bytes(partial / MAIN, _packed(record))
            export()
    except OSError as caught:
        error = caught
    if not ranks.same(_digest(main)):
        error = OSError(
            "the processes computed different numbers; they need processors and versions of one kind"
        )
    reason = ranks.first_error(error)
    if reason is None:
        if ranks.rank == 0:
            try:
                _require_all(partial, len(config.units))
                _take_name(partial, done)
            except OSError as caught:
                error = caught
        reason = ranks.first_error(error)
    if reason is not None:
        shutil.rmtree(partial, ignore_errors=True)
        last = saved_step(folder)
        kept = "there is none before it" if last is None else f"the last good one is of outer step {last}"
        raise CheckpointFailedError(f"no checkpoint could be written at outer step {step} ({reason}); {kept}")


def has_state(folder: Path) -> bool:
    """Whether a folder holds a run to resume."""
    return bool(_checkpoints(folder))


def saved_step(folder: Path) -> int | None:
    """Outer steps done at the newest checkpoint in a folder, or None without one."""
    return next((int(path.name) for path in _checkpoints(folder)), None)


def require_free(folder: Path) -> None:
    """Refuse a folder in which a new run would write over something.

    A run that was killed before its first checkpoint leaves ``state`` without one, and begins anew.

    Raises:
        ValueError: If it holds a run to resume, or files of an optimizer or a log that are no run's.
    """
    if has_state(folder):
        raise ValueError(f"{folder} already holds a run; resume it or choose another folder")
    if (folder / STATE_NAME).is_dir():
        return
    files = (folder / name for name in (CONFIG, WEIGHTS, CARD, LOG_NAME))
    if held := [file.name for file in files if file.is_file() and file.stat().st_size]:
        raise ValueError(
            f"{folder} holds {', '.join(held)}, which a new run would write over, and no run to resume; "
            "choose another folder"
        )


@contextmanager
def sole_run(folder: Path, ranks: Ranks, *, resume: bool) -> Iterator[None]:
    """Keep other runs out of a folder meanwhile.

    Args:
        folder: It must be there.
        ranks: The processes, of which the first one holds it.
        resume: Whether there is a run to continue.

    Raises:
        ValueError: If a new run would write over what it holds, or another run is under way there.
    """
    states = folder / STATE_NAME
    with ExitStack() as held:
        with ranks.all_or_none():
            if not resume:
                require_free(folder)
            if ranks.rank == 0:
                states.mkdir(exist_ok=True)
                held.callback(_remove_if_empty, states)
                held.enter_context(alone_in(folder, lock=states))
        yield


def load_state(
    folder: Path, config: MetaTrainConfig, units: Sequence[int], ranks: Ranks, *, resume: bool
) -> tuple[dict[str, Any], dict[int, Any]] | None:
    """Read the newest checkpoint that every process can read, or None where a new run begins.

    Args:
        folder: Of the run.
        config: That the state must belong to, but for `MAY_CHANGE`.
        units: This process's units.
        ranks: The processes.
        resume: Whether there is a run to continue.

    Returns:
        What all processes know, and the state of each of this one's units.

    Raises:
        ValueError: If a new run would write over what ``folder`` holds, or there is no run to resume, none
            that can be read, or one of another configuration; the differing fields are named.
    """
    with ranks.all_or_none():  # no process writes before all have looked
        if not resume:
            require_free(folder)
        found = _checkpoints(folder)
        if resume and not found:
            raise ValueError(f"{folder} holds no run to resume: {STATE_NAME} has no checkpoint")
    if ranks.rank == 0:
        _remove_partial(folder / STATE_NAME)
    for checkpoint in found:
        with ranks.all_or_none():
            read = _read(folder, checkpoint, config, units)
        if ranks.agree(read is not None):
            return read
    if resume:
        with ranks.all_or_none():
            raise ValueError(f"none of the checkpoints in {folder / STATE_NAME} can be read")
    return None


def _read(
    folder: Path, checkpoint: Path, config: MetaTrainConfig, units: Sequence[int]
) -> tuple[dict[str, Any], dict[int, Any]] | None:
    """A checkpoint, or None with a warning where it cannot be read."""
    try:
        record = torch.load(checkpoint / MAIN, weights_only=True)
        version, saved, state = record["format_version"], json.loads(record["config"]), record["state"]
        own = {index: torch.load(checkpoint / _unit_name(index), weights_only=True) for index in units}
    except Exception as error:
        warn(f"{checkpoint} cannot be read and is passed over: {error}", stacklevel=4)
        return None
    if version != FORMAT_VERSION:
        raise ValueError(f"{checkpoint} has format version {version}; expected {FORMAT_VERSION}")
    _refuse_other(folder, config, saved)
    return state, own


def _refuse_other(folder: Path, config: MetaTrainConfig, saved: dict[str, Any]) -> None:
    wanted, defaults = config.as_json(), MetaTrainConfig().as_json()
    rule = {**defaults["rule"], **saved["rule"]}  # a field that was added since was at its default
    since = {each.name: each.default for each in fields(config.rule.memory) if SINCE_THEN in each.metadata}
    rule["memory"] = {**facts_to_json(since), **rule["memory"]}
    saved = {**defaults, **saved, "rule": rule}
    if why := another_run(folder, saved, wanted, but=MAY_CHANGE):
        raise ValueError(why)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, the newest first."""
    return sorted((path for path in (folder / STATE_NAME).glob("*") if path.name.isdigit()), reverse=True)


def _require_all(partial: Path, units: int) -> None:
    """Refuse a checkpoint of which another process wrote its part elsewhere.

    Raises:
        OSError: It names the folder and a file that is missing.
    """
    missing = [name for name in map(_unit_name, range(units)) if not (partial / name).is_file()]
    if missing:
        raise OSError(
            f"the processes do not see one folder at {partial.parents[1]}: the first of them misses "
            f"{missing[0]}; all need the same one, on a disk that they share"
        )


def _take_name(partial: Path, done: Path) -> None:
    """Make a folder the checkpoint of its step, in the place of one that could not be read, and prune."""
    if done.exists():
        os.replace(done, done.with_suffix(".old.partial"))
    os.replace(partial, done)
    sync_folder(done.parent)
    for old in _checkpoints(done.parents[1])[KEPT:]:
        shutil.rmtree(old)
    _remove_partial(done.parent)


def _remove_partial(states: Path) -> None:
    for partial in states.glob("*.partial"):
        shutil.rmtree(partial)


def _digest(main: dict[str, Any]) -> int:
    """A fingerprint of all tensors, of 48 bits."""
    digest = sha256()
    for leaf in tree_leaves(main):
        if isinstance(leaf, Tensor):
            digest.update(leaf.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest()[:6], "big")


def _unit_name(index: int) -> str:
    return f"unit-{index:05d}.pt"


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
