"""Files that are either the old one or the new one, never half of one."""

import os
from collections.abc import Mapping
from pathlib import Path


def staged(path: Path) -> Path:
    """Where the new contents of ``path`` wait to be put in its place."""
    return path.with_name(f".{path.name}.partial")


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write files so that after a crash or on a full disk each is still the previous one, whole.

    All are written beside their places first, down to the disk, and then put there one by one in order.

    Args:
        contents: What each file is to hold, in one folder.

    Raises:
        OSError: If one cannot be written; it names the file. All are then as they were, but for what putting
            them in place had come to.
    """
    try:
        for path, data in contents.items():
            _write(staged(path), data, named=path)
    except OSError:
        for path in contents:
            staged(path).unlink(missing_ok=True)
        raise
    for path in contents:
        staged(path).replace(path)
        _sync_folder(path.parent)


def _write(path: Path, data: bytes, *, named: Path) -> None:
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(named)) from error


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
