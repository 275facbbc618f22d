"""Labelled images for training: a dataset by name, or a folder with one subfolder a class."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Subset

from learned_opt.names import unknown_name
from tasks.datasets import dataset_names, load_dataset
from tasks.registry import UnknownNameError

FOLDER_SIZE = 224
VALIDATION_SHARE = 5
"""One image in so many of each class validates where a folder has no split of its own."""

VALIDATION_FOLDERS = ("validation", "val", "valid", "test")


class Batches(Protocol):
    """Batches of images and labels, a known number of them."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class ImageKind:
    """What a model must know of its images.

    Attributes:
        channels: 1 for grey, 3 for colour.
        size: Side in pixels before any resizing; None where files have various sizes.
        classes: Number of classes.
    """

    channels: int
    size: int | None
    classes: int


class ImageData(Protocol):
    """Images of a training and a validation split."""

    kind: ImageKind

    def loaders(self, size: int, batch_size: int, *, seed: int, workers: int) -> tuple[Batches, Batches]:
        """Batches of images ``[B, C, size, size]`` and labels ``[B]``: one training epoch, and validation."""


def open_data(name_or_folder: str) -> ImageData:
    """Open a dataset by name or a folder of images.

    Args:
        name_or_folder: ``digits``, ``fashion-mnist``, or a folder: with ``train`` and ``validation``
            subfolders that hold one subfolder a class, or with one subfolder a class, of which every fifth
            image then validates.

    Raises:
        UnknownNameError: If it is neither a name nor a folder.
        ValueError: If a dataset is missing or damaged, or a folder holds no images.
    """
    if name_or_folder in dataset_names():
        return ArrayData(name_or_folder)
    folder = Path(name_or_folder)
    if folder.is_dir():
        return FolderData(folder)
    if folder.exists():
        raise ValueError(f"{folder} is a file; expected a folder with one subfolder of images a class")
    message = unknown_name("dataset", name_or_folder, dataset_names())
    raise UnknownNameError(f"{message}; a folder of images will do too, but there is none of that name")


class ArrayData:
    """A dataset that is held in memory.

    Args:
        name: One of `tasks.datasets.dataset_names`.
    """

    def __init__(self, name: str) -> None:
        dataset = load_dataset(name)
        self.train = next(dataset.chunks("train", dataset.size("train")))
        self.validation = next(dataset.chunks("validation", dataset.size("validation")))
        self.kind = ImageKind(self.train[0].shape[1], self.train[0].shape[-1], dataset.classes)

    def loaders(self, size: int, batch_size: int, *, seed: int, workers: int) -> tuple[Batches, Batches]:
        """See `ImageData.loaders`; ``workers`` are not needed."""
        generator = torch.Generator().manual_seed(seed)
        train = ArrayBatches(*self.train, size=size, batch_size=batch_size, generator=generator)
        return train, ArrayBatches(*self.validation, size=size, batch_size=batch_size)


class ArrayBatches:
    """Batches of images in memory, resized as they come.

    Args:
        images: ``[N, C, height, width]``.
        labels: ``[N]``.
        size: Side to resize to.
        batch_size: Images a batch.
        generator: Shuffles every epoch anew and drops the last, short batch; without it all come in order.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        size: int,
        batch_size: int,
        generator: torch.Generator | None = None,
    ) -> None:
        self.images, self.labels, self.size = images, labels, size
        self.batch_size, self.generator = min(batch_size, len(labels)), generator

    def __len__(self) -> int:
        full, rest = divmod(len(self.labels), self.batch_size)
        return full + bool(rest and self.generator is None)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.labels)
        order = torch.arange(count)
        if self.generator is not None:
            order = torch.randperm(count, generator=self.generator)
        for index in torch.split(order, self.batch_size)[: len(self)]:
            yield _resized(self.images[index], self.size), self.labels[index]


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


class FolderData:
    """Image files in one subfolder a class, read by timm.

    Args:
        folder: As `open_data` describes.
    """

    def __init__(self, folder: Path) -> None:
        self.splits = _splits(folder)
        train, validation = self._dataset(0), self._dataset(1)
        self.names = sorted(train.reader.class_to_idx)
        if self.names != sorted(validation.reader.class_to_idx):
            raise ValueError(f"{self.splits[1]} has other classes than {self.splits[0]}")
        self.kind = ImageKind(3, None, len(self.names))
        if len(self.names) < 2:
            raise ValueError(f"{self.splits[0]} has one class, {self.names[0]!r}; expected at least two")
        self.indices = _indices(train) if self.splits[0] == self.splits[1] else None

    def loaders(self, size: int, batch_size: int, *, seed: int, workers: int) -> tuple[Batches, Batches]:
        """See `ImageData.loaders`: random crops and flips for training, a centre crop for validation."""
        from timm.data import create_transform

        loaders: list[Batches] = []
        for index, training in enumerate((True, False)):
            dataset = self._dataset(index)
            dataset.transform = create_transform(size, is_training=training, color_jitter=0.0)
            chosen = dataset if self.indices is None else Subset(dataset, self.indices[index])
            batch = min(batch_size, len(chosen))
            loaders.append(
                DataLoader(
                    chosen,
                    batch,
                    shuffle=training,
                    drop_last=training,
                    num_workers=workers,
                    persistent_workers=workers > 0,
                    generator=torch.Generator().manual_seed(seed),
                )
            )
        return loaders[0], loaders[1]

    def _dataset(self, index: int) -> Any:
        from timm.data import create_dataset

        try:
            return create_dataset("", root=str(self.splits[index]), search_split=False)
        except RuntimeError:
            raise ValueError(
                f"{self.splits[index]} holds no images; expected one subfolder of images a class"
            ) from None


def _splits(folder: Path) -> tuple[Path, Path]:
    """Folders of the training and the validation images; the same one twice if it is not split."""
    if not (folder / "train").is_dir():
        return folder, folder
    for name in VALIDATION_FOLDERS:
        if (folder / name).is_dir():
            return folder / "train", folder / name
    return folder / "train", folder / "train"


def _indices(dataset: Any) -> tuple[list[int], list[int]]:
    """Indices that train and that validate: every fifth image of each class, in the order of their names."""
    seen: dict[int, int] = {}
    chosen: tuple[list[int], list[int]] = ([], [])
    for index, (_, label) in enumerate(dataset.reader.samples):
        seen[label] = seen.get(label, 0) + 1
        chosen[seen[label] % VALIDATION_SHARE == 0].append(index)
    if not chosen[1]:
        raise ValueError(f"no class has {VALIDATION_SHARE} images or more, so that none would validate")
    return chosen
