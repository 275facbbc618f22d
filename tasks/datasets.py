"""Labelled images, held in memory as tensors: scikit-learn's digits and Debian's Fashion-MNIST.

Either comes at any side from 8 to 28 pixels: ``fashion-mnist-14`` is averaged down, ``digits-14``
interpolated up from 8 pixels.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tasks.base import Batch, Split
from tasks.registry import choose

FASHION_MNIST_PACKAGE = "dataset-fashion-mnist"
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
SIDES = (8, 28)
USUAL_SIDES = ("digits-14", "digits-28", "fashion-mnist-14", "fashion-mnist-8")
DIGIT_LEVELS = 15

Labelled = tuple[Tensor, Tensor]


class DatasetError(ValueError):
    """A dataset's file is not what it should be; the message names the file and the reason."""


class MissingDatasetError(DatasetError):
    """A dataset is not installed; the message names the package that brings it."""


class DataSource(Protocol):
    """Where a task's batches come from: examples of one shape with labels below ``classes``."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of the bytes that were read, by name; empty where nothing is read."""

    def draw(self, generator: torch.Generator, shape: tuple[int, ...], split: Split) -> Batch:
        """Draw inputs ``[*shape, ...]`` and int64 labels ``[*shape]``."""

    def chunks(self, split: Split, size: int) -> Iterator[Batch]:
        """Walk through a whole split in order, ``size`` examples at a time."""


class Dataset:
    """Grey images with labels, split once and for all, kept as bytes and standardised as they are read.

    What ``load_dataset`` returns is pickled by name, so a task travels to another process without images.

    Args:
        name: Name under which ``load_dataset`` finds it.
        train: Images ``[N, 1, height, width]``, uint8, and labels ``[N]``, int64.
        validation: The same for the validation split.
        classes: Number of classes.
        checksums: SHA-256 of the bytes that were read, by name.
    """

    def __init__(
        self,
        name: str,
        train: Labelled,
        validation: Labelled,
        classes: int = 10,
        *,
        checksums: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.checksums = dict(checksums or {})
        self.splits = {"train": train, "validation": validation}
        self._classes = classes
        pixels = train[0].double()
        self._mean, self._deviation = float(pixels.mean()), float(pixels.std())

    def __reduce__(self) -> str | tuple[Any, ...]:
        if _LOADED.get(self.name) is self:
            return load_dataset, (self.name,)
        return super().__reduce__()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._classes

    def size(self, split: Split) -> int:
        """Return the number of examples in a split."""
        return len(self.splits[split][1])

    def draw(self, generator: torch.Generator, shape: tuple[int, ...], split: Split) -> Batch:
        """Draw examples with replacement: one draw of indices, one gather.

        Returns:
            Inputs ``[*shape, 1, height, width]``, float32, of mean 0 and deviation 1 over the training split,
            and labels ``[*shape]``, int64.
        """
        images, labels = self.splits[split]
        index = torch.randint(len(labels), shape, generator=generator)
        return self._standardise(images[index]), labels[index]

    def chunks(self, split: Split, size: int) -> Iterator[Batch]:
        """Walk through a whole split in order, ``size`` examples at a time."""
        images, labels = self.splits[split]
        for some_images, some_labels in zip(
            torch.split(images, size), torch.split(labels, size), strict=True
        ):
            yield self._standardise(some_images), some_labels

    def _standardise(self, images: Tensor) -> Tensor:
        return images.float().sub_(self._mean).div_(self._deviation)


def load_dataset(name: str) -> Dataset:
    """Load a dataset by name and keep it in memory.

    Args:
        name: One of ``dataset_names()``, or one of them and a side from 8 to 28 pixels: ``digits-14``.

    Raises:
        UnknownNameError: If there is no dataset of that name.
        ValueError: If there is none of that side.
        MissingDatasetError: If its files are not installed.
        DatasetError: If its files are damaged.
    """
    base, _, side = name.rpartition("-")
    if base not in _LOADERS or not side.isdecimal():
        base, side = name, ""
    load, native = choose("dataset", base, _LOADERS)
    pixels = int(side or native)
    if not SIDES[0] <= pixels <= SIDES[1]:
        raise ValueError(f"images must have a side of {SIDES[0]} to {SIDES[1]} pixels, got {name!r}")
    full_name = base if pixels == native else f"{base}-{pixels}"
    if full_name not in _LOADED:
        _LOADED[full_name] = load(full_name, pixels)
    return _LOADED[full_name]


def dataset_names() -> list[str]:
    """Return the names that ``load_dataset`` accepts, of sides only the usual ones."""
    return sorted((*_LOADERS, *USUAL_SIDES))


def _digits(name: str, side: int) -> Dataset:
    """Handwritten digits, 8 by 8, 1,437 for training and 360 for validation.

    Sorted by class, every fifth image validates: stratified to one image, with no random number involved.
    """
    from sklearn.datasets import load_digits  # scikit-learn takes a second to import

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    content = images.numpy().tobytes() + labels.to(torch.uint8).numpy().tobytes()
    order = labels.argsort(stable=True)
    validates = torch.arange(len(order)) % 5 == 0
    images = _resize(images, side)
    train, validation = ((images[index], labels[index]) for index in (order[~validates], order[validates]))
    return Dataset(name, train, validation, checksums={"digits": sha256(content).hexdigest()})


def _fashion_mnist(name: str, side: int) -> Dataset:
    """Clothes, 28 by 28, 60,000 for training and 10,000 for validation."""
    if side != 28:
        whole = load_dataset("fashion-mnist")
        train, validation = ((_resize(images, side), labels) for images, labels in whole.splits.values())
        return Dataset(name, train, validation, checksums=whole.checksums)
    images, labels, checksums = read_fashion_mnist("train")
    held_images, held_labels, held_checksums = read_fashion_mnist("t10k")
    return Dataset(name, (images, labels), (held_images, held_labels), checksums=checksums | held_checksums)


def _resize(images: Tensor, side: int) -> Tensor:
    """Average down, or interpolate up, with more levels of grey between the 17 that digits have."""
    native = images.shape[-1]
    if side < native:
        return nn.functional.adaptive_avg_pool2d(images.float(), side).round().to(torch.uint8)
    if side > native:
        levels = nn.functional.interpolate(images.float() * DIGIT_LEVELS, side, mode="bilinear")
        return levels.round().to(torch.uint8)
    return images


_LOADED: dict[str, Dataset] = {}
_LOADERS: dict[str, tuple[Callable[[str, int], Dataset], int]] = {
    "digits": (_digits, 8),
    "fashion-mnist": (_fashion_mnist, 28),
}


def fashion_mnist_folder() -> Path:
    """Return where Fashion-MNIST is to be: ``$FASHION_MNIST_FOLDER``, or where Debian's package puts it."""
    return Path(os.environ.get("FASHION_MNIST_FOLDER", FASHION_MNIST_FOLDER))


def read_fashion_mnist(split: str, folder: Path | None = None) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Read one split of Fashion-MNIST from its gzipped IDX files.

    Args:
        split: ``"train"`` or ``"t10k"``.
        folder: Where the files are; by default ``fashion_mnist_folder()``.

    Returns:
        Images ``[N, 1, 28, 28]``, uint8, labels ``[N]``, int64, and the SHA-256 of each file by its name.

    Raises:
        MissingDatasetError: If a file is absent.
        DatasetError: If a file is damaged, or the two do not fit together.
    """
    folder = folder or fashion_mnist_folder()
    images_path, labels_path = (
        folder / f"{split}-{content}-ubyte.gz" for content in ("images-idx3", "labels-idx1")
    )
    images, images_checksum = _read_idx(images_path, dimensions=3)
    labels, labels_checksum = _read_idx(labels_path, dimensions=1)
    if len(labels) != len(images):
        raise DatasetError(f"{labels_path}: {len(labels)} labels for {len(images)} images")
    if labels.max() > 9:
        raise DatasetError(f"{labels_path}: labels must be 0 to 9, found {int(labels.max())}")
    checksums = {images_path.name: images_checksum, labels_path.name: labels_checksum}
    return images.unsqueeze(1), labels.to(torch.int64), checksums


def _read_idx(path: Path, *, dimensions: int) -> tuple[Tensor, str]:
    """Read a gzipped IDX file of bytes: a magic number, its lengths as big-endian integers, the data.

    Returns the data and the SHA-256 of the file.
    """
    try:
        compressed = path.read_bytes()
        content = gzip.decompress(compressed)
    except FileNotFoundError:
        raise MissingDatasetError(
            f"{path} is not there: install Fashion-MNIST with `apt-get install {FASHION_MNIST_PACKAGE}`, "
            f"or set FASHION_MNIST_FOLDER to the folder that holds its idx.gz files"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error
    header = struct.calcsize(f">{1 + dimensions}I")
    magic, *lengths = struct.unpack(f">{1 + dimensions}I", content[:header].ljust(header, b"\0"))
    if magic != 0x800 + dimensions:
        raise DatasetError(
            f"{path}: not an IDX file of bytes in {dimensions} dimensions (magic number {magic:#010x})"
        )
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:]
    expected = torch.Size(lengths).numel()
    if expected == 0 or data.numel() != expected:
        raise DatasetError(f"{path}: {data.numel()} bytes of data where its header promises {expected}")
    return data.view(lengths), sha256(compressed).hexdigest()
