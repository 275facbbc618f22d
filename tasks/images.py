"""Folders of colour images, decoded once and held in memory as bytes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.base import Batch, Split
from tasks.datasets import DatasetError, Labelled
from tasks.image_files import SPLITS, Reading, decode, list_images, refuse_too_large, statistics

NAMED = 5


class FolderImages:
    """Labelled RGB images of a folder, a ``DataSource``.

    Every file is decoded once, when the source is made; afterwards a batch is one gather from uint8 tensors,
    standardised by mean and deviation of each channel over the training split. A pickle holds no images:
    another process reads the folder again and checks that it holds the same.

    Args:
        folder: See ``Reading``, as for what follows.
        image: Side in pixels.
        options: The other fields of ``Reading``.

    Attributes:
        names: The classes' folders, by label.
        checksums: SHA-256 over names, labels and bytes of the files of either split.
        skipped: Files that could not be read.
        mean: Of each channel over the training split, in [0, 255].
        deviation: Of each channel.

    Raises:
        DatasetError: If the folder is missing or a file, a class has no image, a label is out of range, too
            many images are broken, or the images would take more memory than allowed.

    Example:
        ``FolderImages("photos", image=64).draw(torch.Generator(), (32,), "train")``
    """

    def __init__(self, folder: str | os.PathLike[str], *, image: int, **options: Any) -> None:
        self.reading = Reading(Path(folder), image, **options)
        self.names, listed = list_images(self.reading)
        refuse_too_large(self.reading, sum(map(len, listed.values())))
        self._splits: dict[Split, Labelled] = {}
        self.checksums: dict[str, str] = {}
        self.skipped: list[str] = []
        for split, samples in listed.items():
            images, labels, digest, broken = decode(self.reading, samples)
            self._splits[split] = images, labels
            self.checksums[f"{self.reading.folder.name}/{split}"] = digest
            self.skipped += broken
        self._judge_broken(sum(map(len, listed.values())))
        self.mean, self.deviation = statistics(self._splits["train"][0])

    def __reduce__(self) -> tuple[Any, ...]:
        return _read_again, (self.reading, self.checksums)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    def size(self, split: Split) -> int:
        """Return the number of images in a split."""
        return len(self._splits[split][1])

    def labels(self, split: Split) -> Tensor:
        """Return the labels of a split in order, ``[N]``, int64."""
        return self._splits[split][1]

    def gather(self, index: Tensor, split: Split) -> Tensor:
        """Return images ``[*index.shape, 3, image, image]``, float32, of mean 0 and deviation 1."""
        images = self._splits[split][0][index].float()
        return images.sub_(self.mean.view(3, 1, 1)).div_(self.deviation.view(3, 1, 1))

    def draw(self, generator: torch.Generator, shape: tuple[int, ...], split: Split) -> Batch:
        """Draw images ``[*shape, 3, image, image]`` and labels ``[*shape]`` with replacement."""
        labels = self.labels(split)
        index = torch.randint(len(labels), shape, generator=generator)
        return self.gather(index, split), labels[index]

    def chunks(self, split: Split, size: int) -> Iterator[Batch]:
        """Walk through a whole split in order, ``size`` examples at a time."""
        labels = self.labels(split)
        for index in torch.split(torch.arange(len(labels)), size):
            yield self.gather(index, split), labels[index]

    def _judge_broken(self, count: int) -> None:
        """Warn of broken images or refuse them; refuse classes of which they leave nothing."""
        reading, broken = self.reading, self.skipped
        if broken:
            more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
            message = (
                f"{reading.folder}: {len(broken)} of {count} images cannot be read: "
                f"{', '.join(broken[:NAMED])}{more}"
            )
            if len(broken) > reading.broken_share * count:
                raise DatasetError(f"{message}; at most {reading.broken_share:.1%} may be left out")
            warnings.warn(f"{message}; they are left out", stacklevel=3)
        for split in SPLITS:
            counts = torch.bincount(self.labels(split), minlength=self.classes)
            if not bool(counts.all()):
                name = self.names[int(counts.argmin())]
                raise DatasetError(f"{reading.folder}: class {name!r} has no image in the {split} split")


class ClassSubset:
    """Some classes of a folder as a ``DataSource`` of their own; the images are shared.

    Args:
        images: The folder.
        chosen: Labels of different classes, in the order of their new labels.

    Raises:
        ValueError: If a label is repeated or not one of the folder's.
    """

    def __init__(self, images: FolderImages, chosen: Sequence[int]) -> None:
        if len(set(chosen)) != len(chosen) or not set(chosen) <= set(range(images.classes)):
            raise ValueError(f"chosen must be different labels from 0 to {images.classes - 1}, got {chosen}")
        self.images = images
        self.chosen = tuple(chosen)
        new_label = torch.full((images.classes,), -1)
        new_label[list(chosen)] = torch.arange(len(chosen))
        self._labels = {split: new_label[images.labels(split)] for split in SPLITS}
        self._rows = {split: (labels >= 0).nonzero().flatten() for split, labels in self._labels.items()}

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.chosen)

    @property
    def checksums(self) -> Mapping[str, str]:
        """Those of the whole folder."""
        return self.images.checksums

    def draw(self, generator: torch.Generator, shape: tuple[int, ...], split: Split) -> Batch:
        """Draw images of the chosen classes and their new labels, with replacement."""
        rows = self._rows[split]
        index = rows[torch.randint(len(rows), shape, generator=generator)]
        return self.images.gather(index, split), self._labels[split][index]

    def chunks(self, split: Split, size: int) -> Iterator[Batch]:
        """Walk through the chosen classes' part of a split in order, ``size`` examples at a time."""
        for index in torch.split(self._rows[split], size):
            yield self.images.gather(index, split), self._labels[split][index]


def _read_again(reading: Reading, checksums: Mapping[str, str]) -> FolderImages:
    options = {name: value for name, value in vars(reading).items() if name not in ("folder", "image")}
    images = FolderImages(reading.folder, image=reading.image, **options)
    if images.checksums != checksums:
        raise DatasetError(f"{reading.folder} no longer holds the images that were read before")
    return images
