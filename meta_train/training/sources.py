"""Where image files are: one split of whatever timm can open."""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from meta_train.training.broken import BrokenImages
from meta_train.training.manifest import Manifest, files_manifest, folder_files
from tasks.image_files import in_colour
from tasks.image_splits import HELD_OUT, hold_out


class Source:
    """The images of a split.

    Args:
        split: Its name, for messages.
        dataset: One of timm's image datasets, or of torchvision's.
        chosen: Indices in the dataset; all by default.
        most_broken: Share that may be unreadable.
        recorded: Whether the manifest is wanted, for which every file is looked at.
    """

    def __init__(
        self,
        split: str,
        dataset: Any,
        *,
        chosen: Sequence[int] | None = None,
        most_broken: float,
        recorded: bool,
    ) -> None:
        self.split, self.dataset = split, dataset
        self.chosen = range(len(dataset)) if chosen is None else chosen
        self.broken = BrokenImages(split, len(self.chosen), most=most_broken, name=self.name)
        self.manifest: Manifest | None = None
        if recorded:
            self.manifest = _manifest(dataset, self.chosen)
            sizes = [size for size, _ in self.manifest.files]
            if len(sizes) == len(self):
                self.broken.mark(index for index, size in enumerate(sizes) if size == 0)
                self.broken.check()

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Decode an image and its label; -1 where it has none."""
        reader = getattr(self.dataset, "reader", None)
        if reader is None:
            image, label = self.dataset[self.chosen[index]]
            return in_colour(image), int(label)
        file, label, *_ = reader[self.chosen[index]]
        with file:
            return in_colour(Image.open(file)), -1 if label is None else int(label)

    def name(self, index: int) -> str:
        """The name of an image, for messages."""
        where = self.chosen[index]
        if hasattr(self.dataset, "filename"):
            return str(self.dataset.filename(where) or f"number {where}")
        return f"number {where}"


def open_in_colour(path: str) -> Image.Image:
    """Decode an image file, as torchvision's datasets call it."""
    with Image.open(path) as image:
        return in_colour(image)


def _manifest(dataset: Any, chosen: Sequence[int]) -> Manifest:
    """What is read of a dataset: files of a folder, members of a tar, or whatever lies below its root."""
    reader: Any = getattr(dataset, "reader", None)
    samples: Any = getattr(reader, "samples", None)
    if samples is not None and hasattr(reader, "class_to_idx"):
        paths = [Path(samples[index][0]) for index in chosen]
        return _folder_manifest(len(chosen), paths, Path(reader.root))
    if samples is not None:
        members = [samples[index][0] for index in chosen]
        tar = Path(reader.root)
        files = [(int(member.size), str(member.path)) for member in members]
        return files_manifest(len(chosen), files, lambda: _chunks([tar]))
    root = getattr(dataset, "root", None)
    if reader is None and root is not None:
        paths = sorted(path for path in Path(root).rglob("*") if path.is_file())
        return _folder_manifest(len(chosen), paths, Path(root))
    fingerprint = getattr(getattr(reader, "dataset", None), "_fingerprint", None)
    return Manifest(len(chosen), facts={"fingerprint": fingerprint} if fingerprint else {})


def _folder_manifest(images: int, paths: list[Path], root: Path) -> Manifest:
    return files_manifest(images, folder_files(paths, root), lambda: _chunks(paths))


def _chunks(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                yield chunk


def split_evenly(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """As `hold_out`.

    Raises:
        ValueError: If none would validate.
    """
    chosen = hold_out(labels)
    if not chosen[1]:
        raise ValueError(f"no class has {HELD_OUT} images or more, so that none would validate")
    return chosen


def labels_of(reader: Any) -> list[int]:
    """The label of every image of a folder or a tar."""
    if hasattr(reader, "targets"):
        return [int(label) for label in reader.targets]
    return [label for _, label in reader.samples]


def class_names(reader: Any) -> list[str]:
    """Names of the classes of a folder or a tar, in the order of their labels."""
    known: dict[str, int] = getattr(reader, "class_to_idx", None) or reader.class_name_to_idx
    return sorted(known, key=known.__getitem__)


@contextmanager
def plain_errors(what: str) -> Iterator[None]:
    """Tell in one line why timm could not open data.

    Raises:
        ValueError: In place of whatever timm or its readers raise.
    """
    try:
        yield
    except ImportError as error:
        raise ValueError(f"{what} needs a package that is not installed: {error}") from error
    except tarfile.TarError as error:
        raise ValueError(f"{what} is no whole tar, perhaps an interrupted download: {error}") from error
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what} cannot be opened: {reason}") from error
