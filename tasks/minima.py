"""Minima that take a search, kept on disk so that each is searched for once.

An entry is a small JSON file named by the hash of everything that its value depends on, so that it is never
out of date: the function's tensors, the settings of the search and the version of its code. Files appear by
an atomic rename. Two processes that miss the same entry both search, and either file is right.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from torch import Tensor

from tasks.files import atomic_write_text

CACHE_VARIABLE = "LEARNED_OPT_CACHE"

_folder: ContextVar[Path | None] = ContextVar("minima_folder", default=None)
_memory: dict[str, float] = {}


@contextmanager
def minima_kept_in(folder: Path) -> Iterator[None]:
    """Keep the minima that are found in this context in a folder of the caller's, which may not exist yet."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def minima_folder() -> Path:
    """Return where minima are kept.

    That is the folder of the innermost ``minima_kept_in``, else ``$LEARNED_OPT_CACHE/minima``, else
    ``learned-opt/minima`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    chosen = _folder.get()
    if chosen is not None:
        return chosen
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own) / "minima"
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "learned-opt" / "minima"


def fingerprint(search: str, tensors: Iterable[Tensor]) -> str:
    """Return the name of an entry.

    Args:
        search: The kind of function, the settings of the search and the version of its code, in one line.
        tensors: What tells the function from others of its kind.
    """
    digest = hashlib.sha256(search.encode())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def remembered_minimum(key: str, search: Callable[[], float], *, folder: Path | None = None) -> float:
    """Return the minimum of a key: from memory, else from disk, else from a search, which is then kept.

    A damaged entry is searched for again with a warning. A folder that cannot be written costs a warning
    and the next process a search.

    Args:
        key: What ``fingerprint`` gave.
        search: Finds the minimum.
        folder: Where entries are kept; ``minima_folder()`` if None.
    """
    file = (folder or minima_folder()) / f"{key}.json"
    stored = _read(file, key)
    if key not in _memory:
        _memory[key] = search() if stored is None else stored
    if stored is None:
        _write(file, key, _memory[key])
    return _memory[key]


def _read(file: Path, key: str) -> float | None:
    """Return the minimum in a file, or nothing, with a warning if there is a file."""
    try:
        entry = json.loads(file.read_text())
        minimum = float(entry["minimum"])
        if entry["key"] == key and math.isfinite(minimum):
            return minimum
        reason = "it is another entry, or not finite"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    warnings.warn(
        f"{file} cannot be read ({reason}): its minimum is searched for again", RuntimeWarning, stacklevel=3
    )
    return None


def _write(file: Path, key: str, minimum: float) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(file, json.dumps({"key": key, "minimum": minimum}) + "\n")
    except OSError as error:
        warnings.warn(f"a minimum cannot be kept as {file} ({error})", RuntimeWarning, stacklevel=3)
