"""Files that are either whole or absent: atomic writes and the checks before them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file to write so that a kill or a full disk leaves the previous one whole.

    What is written goes to a temporary file beside ``path``, which is synced and takes its name in one rename
    when the block ends without an error.

    Args:
        path: The file to write; its folder must exist.

    Yields:
        The temporary file, open for bytes.

    Raises:
        OSError: If the folder cannot be written or the disk is full. ``path`` is then as it was.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file as `atomic_file` does.

    Args:
        path: The file to write; its folder must exist.
        data: The whole content.

    Raises:
        OSError: If the folder cannot be written or the disk is full. ``path`` is then as it was.
    """
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file as `atomic_write_bytes` does, line ends unchanged.

    Args:
        path: The file to write; its folder must exist.
        text: The whole content.

    Raises:
        OSError: If the folder cannot be written or the disk is full. ``path`` is then as it was.
    """
    atomic_write_bytes(path, text.encode())


def writable_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder if need be and prove that files can be written there.

    Args:
        path: The folder; missing parents are created.

    Returns:
        The folder.

    Raises:
        OSError: If it is a file, or cannot be created or written; the message is one line.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except FileExistsError as error:
        raise NotADirectoryError(f"cannot write to {folder}: it is a file, not a folder") from error
    except OSError as error:
        raise type(error)(f"cannot write to {folder}: {error.strerror or error}") from error


def _umask() -> int:
    """The permissions that new files lack; mkstemp alone would make them private."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Make a rename durable where the system can sync a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
