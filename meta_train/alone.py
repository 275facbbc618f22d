"""One run in a folder at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

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
