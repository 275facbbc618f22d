"""Files that are either the old one or the new one, never half of one."""

import os
from pathlib import Path


def staged(path: Path) -> Path:
    """Where `stage` keeps what is to become ``path``."""
    return path.with_name(f".{path.name}.partial")


def stage(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, down to the disk, leaving ``path`` as it is.

    Raises:
        OSError: If it cannot be written; it names the file, and nothing is left behind.
    """
    partial = staged(path)
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def publish(path: Path) -> None:
    """Put what `stage` wrote in the place of ``path``, at once."""
    staged(path).replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that after a crash or on a full disk is still the previous one, whole.

    Raises:
        OSError: If it cannot be written; it names the file.
    """
    stage(path, data)
    publish(path)
