"""A folder is of one run, which is alone in it while it goes."""

from collections.abc import Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from learned_opt.files import locked


@contextmanager
def alone_in(run: Path, *, lock: Path) -> Iterator[None]:
    """Keep other runs out of a folder meanwhile.

    Args:
        run: Its folder.
        lock: The folder that is locked: that one, or one in it that all runs there have.

    Raises:
        ValueError: If another run is under way there.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            raise ValueError(f"another run is under way in {run}; choose another folder") from None
        yield


def another_run(
    folder: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any], *, but: Set[str] = frozenset()
) -> str:
    """Why the run in a folder cannot go on as another one, for a message; empty if both are the same.

    Args:
        folder: Of the run.
        saved: What decides the run that it holds.
        wanted: What decides the one that is to go on.
        but: Of this, what may differ.
    """
    decisive = (saved.keys() | wanted.keys()) - but
    differing = sorted(key for key in decisive if saved.get(key) != wanted.get(key))
    changes = (f"{key} was {saved.get(key)}, now {wanted.get(key)}" for key in differing)
    return f"{folder} holds a run of another configuration: {'; '.join(changes)}" if differing else ""
