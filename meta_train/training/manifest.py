"""What was read, so that a run's record tells whether data were the same: sizes, names and digests."""

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.files import atomic_file

MANIFEST_NAME = "files.tsv.gz"
CONTENT_BYTES = 256 * 2**20
"""Sets up to this size are digested whole; of larger ones names and sizes are."""


@dataclass(frozen=True)
class Manifest:
    """What a split consists of.

    Attributes:
        images: Number of images.
        files: Sizes in bytes and names, in order; empty where there are no files of their own.
        facts: Further facts, such as digests, for the record.
    """

    images: int
    files: tuple[tuple[int, str], ...] = ()
    facts: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What the record of a run holds: counts and digests, not the list."""
        record: dict[str, Any] = {"images": self.images, **self.facts}
        if self.files:
            record["bytes"] = sum(size for size, _ in self.files)
            record["files_sha256"] = _digest(line.encode() for line in self.lines())
        return record

    def lines(self) -> Iterator[str]:
        """A line a file: its size and name."""
        return (f"{size}\t{name}\n" for size, name in self.files)


def files_manifest(
    images: int, files: Iterable[tuple[int, str]], contents: Callable[[], Iterable[bytes]]
) -> Manifest:
    """A manifest of files, with a digest of their contents if there are at most `CONTENT_BYTES` of them.

    Args:
        images: Number of images.
        files: Sizes in bytes and names.
        contents: Reads the files' bytes, in the same order.
    """
    files = tuple(files)
    facts = {}
    if sum(size for size, _ in files) <= CONTENT_BYTES:
        facts["content_sha256"] = _digest(contents())
    return Manifest(images, files, facts)


def folder_files(paths: Iterable[Path], root: Path) -> list[tuple[int, str]]:
    """Sizes of files, and their names below a folder."""
    return [(path.stat().st_size, str(path.relative_to(root))) for path in paths]


def tensor_manifest(images: Tensor, labels: Tensor) -> Manifest:
    """A manifest of images that are held in memory."""
    contents = (tensor.contiguous().numpy().tobytes() for tensor in (images, labels))
    return Manifest(len(labels), facts={"content_sha256": _digest(contents)})


def write_manifests(folder: Path, manifests: Mapping[str, Manifest]) -> None:
    """Write the list of all files, with the split, size and name of each; none if there are no files."""
    if not any(manifest.files for manifest in manifests.values()):
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        return
    with (
        atomic_file(folder / MANIFEST_NAME) as file,
        gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as zipped,
    ):
        for split, manifest in manifests.items():
            zipped.writelines(f"{split}\t{line}".encode() for line in manifest.lines())


def _digest(parts: Iterable[bytes]) -> str:
    digest = sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
