"""Labelled images, held in memory as tensors: scikit-learn's digits and Debian's Fashion-MNIST."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tasks.base import Batch, Split
from tasks.registry import choose

FASHION_MNIST_PACKAGE = "dataset-fashion-mnist"
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")


class DatasetError(ValueError):
    """A dataset's file is not what it should be; the message names the file and the reason."""


class MissingDatasetError(DatasetError):
    """A dataset is not installed; the message names the package that brings it."""


class DataSource(Protocol):
    """Where a task's batches come from: examples of one shape with labels below ``classes``."""

    @property
    def classes(self) -> int:
        """Number of classes."""

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
    """

    def __init__(
        self, name: str, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], classes: int = 10
    ) -> None:
        self.name = name
        self._splits = {"train": train, "validation": validation}
        self._classes = classes
        pixels = train[0].double()
        self._mean, self._deviation = float(pixels.mean()), float(pixels.std())

    def __reduce__(self) -> str | tuple[Any, ...]:
        if self.name in _LOADERS and load_dataset(self.name) is self:
            return load_dataset, (self.name,)
        return super().__reduce__()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._classes

    def size(self, split: Split) -> int:
        """Return the number of examples in a split."""
        return len(self._splits[split][1])

    def draw(self, generator: torch.Generator, shape: tuple[int, ...], split: Split) -> Batch:
        """Draw examples with replacement: one draw of indices, one gather.

        Returns:
            Inputs ``[*shape, 1, height, width]``, float32, of mean 0 and deviation 1 over the training split,
            and labels ``[*shape]``, int64.
        """
        images, labels = self._splits[split]
        index = torch.randint(len(labels), shape, generator=generator)
        return self._standardise(images[index]), labels[index]

    def chunks(self, split: Split, size: int) -> Iterator[Batch]:
        """Walk through a whole split in order, ``size`` examples at a time."""
        images, labels = self._splits[split]
        for some_images, some_labels in zip(
            torch.split(images, size), torch.split(labels, size), strict=True
        ):
            yield self._standardise(some_images), some_labels

    def _standardise(self, images: Tensor) -> Tensor:
        return images.float().sub_(self._mean).div_(self._deviation)


@cache
def load_dataset(name: str) -> Dataset:
    """Load a dataset by name and keep it in memory.

    Args:
        name: One of ``dataset_names()``.

    Raises:
        UnknownNameError: If there is no dataset of that name.
        MissingDatasetError: If its files are not installed.
        DatasetError: If its files are damaged.
    """
    return choose("dataset", name, _LOADERS)(name)


def dataset_names() -> list[str]:
    """Return the names that ``load_dataset`` accepts."""
    return sorted(_LOADERS)


def _digits(name: str) -> Dataset:
    """Handwritten digits, 8 by 8, 1,437 for training and 360 for validation.

    Sorted by class, every fifth image validates: stratified to one image, with no random number involved.
    """
    from sklearn.datasets import load_digits  # scikit-learn takes a second to import

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    order = labels.argsort(stable=True)
    validates = torch.arange(len(order)) % 5 == 0
    train, validation = order[~validates], order[validates]
    return Dataset(name, (images[train], labels[train]), (images[validation], labels[validation]))


def _fashion_mnist(name: str, *, width: int = 28) -> Dataset:
    """Clothes, 60,000 for training and 10,000 for validation, averaged down to ``width`` by ``width``."""
    train, validation = (read_fashion_mnist(split) for split in ("train", "t10k"))
    return Dataset(name, _shrink(train, width), _shrink(validation, width))


def _shrink(split: tuple[Tensor, Tensor], width: int) -> tuple[Tensor, Tensor]:
    images, labels = split
    if images.shape[-1] != width:
        images = nn.functional.adaptive_avg_pool2d(images.float(), width).round().to(torch.uint8)
    return images, labels


_LOADERS: dict[str, Callable[[str], Dataset]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "fashion-mnist-14": partial(_fashion_mnist, width=14),
    "fashion-mnist-8": partial(_fashion_mnist, width=8),
}


def read_fashion_mnist(split: str, folder: Path | None = None) -> tuple[Tensor, Tensor]:
    """Read one split of Fashion-MNIST from its gzipped IDX files.

    Args:
        split: ``"train"`` or ``"t10k"``.
        folder: Where the files are; by default ``$FASHION_MNIST_FOLDER`` or where Debian's package puts them.

    Returns:
        Images ``[N, 1, 28, 28]``, uint8, and labels ``[N]``, int64.

    Raises:
        MissingDatasetError: If a file is absent.
        DatasetError: If a file is damaged, or the two do not fit together.
    """
    folder = folder or Path(os.environ.get("FASHION_MNIST_FOLDER", FASHION_MNIST_FOLDER))
    images = _read_idx(folder / f"{split}-images-idx3-ubyte.gz", dimensions=3)
    labels_path = folder / f"{split}-labels-idx1-ubyte.gz"
    labels = _read_idx(labels_path, dimensions=1)
    if len(labels) != len(images):
        raise DatasetError(f"{labels_path}: {len(labels)} labels for {len(images)} images")
    if labels.max() > 9:
        raise DatasetError(f"{labels_path}: labels must be 0 to 9, found {int(labels.max())}")
    return images.unsqueeze(1), labels.to(torch.int64)


def _read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Read a gzipped IDX file of bytes: a magic number, its lengths as big-endian integers, the data."""
    try:
        content = gzip.decompress(path.read_bytes())
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
    return data.view(lengths)
