"""Files that are either the old one or the new one, never half of one."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


def staged(path: Path) -> Path:
    """Where the new contents of ``path`` wait to be put in its place."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep others out of a folder, in any process; no file is left in it. It is not reentrant.

    Nobody is kept out where there are no such locks: on Windows, and with a warning where the file system
    refuses them.

    Args:
        folder: It must be there.
        wait: For others that hold it, rather than raise.

    Raises:
        BlockingIOError: If another holds it and ``wait`` is false.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError as error:
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}): write to it from one process at a time",
                RuntimeWarning,
                stacklevel=3,
            )
        yield
    finally:
        with suppress(OSError):  # closing alone leaves it to the processes that were forked meanwhile
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write files so that after a crash or on a full disk each is still the previous one, whole.

    All are written beside their places first, down to the disk, and then put there one by one in order. One
    writer at a time: where there may be others, the caller has the folder `locked`.

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
