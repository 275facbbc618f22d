"""Folders of labelled colour images: finding the files, and decoding them to bytes."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from tasks.base import Split
from tasks.datasets import DatasetError
from tasks.image_splits import (
    USUAL_NAMES,
    class_folders,
    find_split,
    hold_out,
    is_class,
    require_one_folder_a_class,
    split_places,
    splits_within,
)

MEMORY_LIMIT = 8 * 2**30
BROKEN_SHARE = 0.01
BLOCK = 256
MAX_THREADS = 16
SPLITS: tuple[Split, Split] = ("train", "validation")
UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error),
    Image.DecompressionBombError,
)
"""What Pillow raises at a file that is no whole image; an ``OSError`` above all."""

Sample = tuple[Path, int]


@dataclass(frozen=True)
class Reading:
    """How a folder is read.

    Args:
        folder: One subfolder of images for each class, as timm reads them, or such folders under ``train``
            and ``validation`` (or ``val``, ``valid``, ``test``). Without a split, every fifth image of each
            class validates, in the order of their names.
        image: Side in pixels to which images are cropped, about their centre, and resized.
        per_class: Most images of a class in either split, the first by name; None takes all.
        class_map: Labels by the name of a class's folder; by default their order.
        memory_limit: Most bytes that the images may take.
        broken_share: Share of unreadable images up to which they are left out with a warning.

    Raises:
        ValueError: If a number is out of range.
    """

    folder: Path
    image: int
    per_class: int | None = None
    class_map: Mapping[str, int] | None = None
    memory_limit: int = MEMORY_LIMIT
    broken_share: float = BROKEN_SHARE

    def __post_init__(self) -> None:
        for name in ("image", "per_class", "memory_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.broken_share < 1:
            raise ValueError(f"broken_share must be at least 0 and below 1, got {self.broken_share}")


def list_images(reading: Reading) -> tuple[list[str], dict[Split, list[Sample]]]:
    """Names of the classes, by label, and the files of each split with their labels."""
    folder = reading.folder
    if not folder.exists():
        raise DatasetError(f"{folder} is not there; expected a folder of images, one subfolder a class")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is a file; expected a folder of images, one subfolder a class")
    readers = _readers(reading)
    labels, samples = readers[0].class_to_idx, _samples(readers[0])
    if len(readers) == 1:
        parts = hold_out([label for _, label in samples])
        samples, held_out = ([samples[index] for index in part] for part in parts)
    else:
        held_out = _samples(readers[1])
        _require_same_classes(*readers)
    listed: dict[Split, list[Sample]] = {"train": samples, "validation": held_out}
    if reading.per_class is not None:
        listed = {split: _first(samples, reading.per_class) for split, samples in listed.items()}
    return sorted(labels, key=labels.__getitem__), listed


def _readers(reading: Reading) -> list[Any]:
    """Return timm's readers of both splits, or of the one place that is not split."""
    folder = reading.folder
    places = split_places(folder)
    validation = find_split(folder, USUAL_NAMES.validation)
    if places[0] == folder and validation and not is_class(validation):
        raise DatasetError(
            f"{folder} has a folder for validation, {validation}, and none for training; expected it to be "
            f"called {USUAL_NAMES.train}"
        )
    if places[0] != places[1]:
        return [_reader(reading, place) for place in places]
    reader = _reader(reading, places[0])
    folders = class_folders(reader)
    splits = splits_within(folders)
    if splits is None:
        known = f"splits that are called {USUAL_NAMES.train} and {USUAL_NAMES.validation[0]}"
        require_one_folder_a_class(places[0], folders, splits=known)
        return [reader]
    shared = Path(os.path.commonpath([path for path, _ in reader.samples]))
    return [_reader(reading, shared / split) for split in splits]


def _reader(reading: Reading, place: Path) -> Any:
    """Return timm's reader of a folder of classes."""
    from timm.data import create_dataset

    options: Any = {"class_map": reading.class_map and dict(reading.class_map)}
    try:
        reader = create_dataset("", root=str(place), search_split=False, **options).reader
    except RuntimeError:
        raise DatasetError(f"{place} holds no images; expected one subfolder a class") from None
    _refuse_bad_classes(reader, mapped=reading.class_map is not None)
    return reader


def _require_same_classes(train: Any, validation: Any) -> None:
    strange = sorted(train.class_to_idx.keys() ^ validation.class_to_idx.keys())
    if strange:
        raise DatasetError(f"{train.root} and {validation.root} differ in classes: {', '.join(strange)}")


def _refuse_bad_classes(reader: Any, *, mapped: bool) -> None:
    """Raise ``DatasetError`` unless every class has images, and a label below the number of classes."""
    labels, count = reader.class_to_idx, len(reader.class_to_idx)
    if "" in labels:
        raise DatasetError(f"images lie in {reader.root} itself; expected one subfolder of images a class")
    if count < 2:
        raise DatasetError(f"{reader.root} has one class, {next(iter(labels))!r}; expected at least two")
    if sorted(labels.values()) != list(range(count)):
        wrong = {name: label for name, label in labels.items() if label not in range(count)} or labels
        raise DatasetError(f"labels of {count} classes must be 0 to {count - 1}, each once, got {wrong}")
    used = {Path(path).parent for path, _ in reader.samples}
    for directory, subfolders, _ in os.walk(reader.root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        path = Path(directory)
        if not subfolders and path not in used and (path.name in labels or not mapped):
            raise DatasetError(f"class folder {path} has no images")


def _samples(reader: Any) -> list[Sample]:
    return [(Path(path), label) for path, label in reader.samples]


def _first(samples: list[Sample], count: int) -> list[Sample]:
    """Return the first so many of each class."""
    seen: dict[int, int] = {}
    chosen = []
    for path, label in samples:
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= count:
            chosen.append((path, label))
    return chosen


def refuse_too_large(reading: Reading, count: int) -> None:
    """Raise ``DatasetError`` if so many images take more memory than allowed."""
    size = count * 3 * reading.image**2
    if size > reading.memory_limit:
        raise DatasetError(
            f"{reading.folder}: {count:,} images of {reading.image} pixels take {size / 2**30:.2g} GiB "
            f"of memory, above the limit of {reading.memory_limit / 2**30:.2g}: choose a smaller image or "
            "per_class, or raise memory_limit"
        )


def decode(reading: Reading, samples: list[Sample]) -> tuple[Tensor, Tensor, str, list[str]]:
    """Read the files of a split.

    Returns:
        Images ``[N, 3, image, image]``, uint8, labels ``[N]``, the checksum, and the names of the files that
        could not be read.
    """
    images = torch.empty(len(samples), 3, reading.image, reading.image, dtype=torch.uint8)
    labels: list[int] = []
    broken: list[str] = []
    checksum = sha256()
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(samples), BLOCK):
            block = samples[start : start + BLOCK]
            for (path, label), read in zip(
                block, pool.map(partial(_read, reading.image), block), strict=True
            ):
                name = path.relative_to(reading.folder).as_posix()
                if read is None:
                    broken.append(name)
                    continue
                digest, images[len(labels)] = read
                labels.append(label)
                checksum.update(f"{digest} {label} {name}\n".encode())
    return images[: len(labels)], torch.tensor(labels, dtype=torch.int64), checksum.hexdigest(), broken


def in_colour(picture: Image.Image) -> Image.Image:
    """A picture in RGB with 8 bits a channel; Pillow alone would make most levels of 16-bit grey white."""
    if not picture.mode.startswith("I"):
        return picture.convert("RGB")
    levels = picture.convert("I")
    most: Any = levels.getextrema()[1]
    if picture.mode != "I" or most > 255:
        levels = levels.point(lambda level: level * (1 / 257) + 0.5)
    return levels.convert("RGB")


def _read(image: int, sample: Sample) -> tuple[str, Tensor] | None:
    """Return a file's checksum and its pixels ``[3, image, image]``, uint8, or None if it is broken."""
    try:
        content = sample[0].read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            picture.draft("RGB", (image, image))
            fitted = ImageOps.fit(in_colour(picture), (image, image), Image.Resampling.BICUBIC)
    except UNREADABLE:
        return None
    pixels = torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8)
    return sha256(content).hexdigest(), pixels.view(image, image, 3).permute(2, 0, 1)


def statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, ``[3]`` each, float32; the deviation is at least one level."""
    total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for block in torch.split(images, BLOCK):
        levels = block.transpose(0, 1).flatten(1).double()
        total += levels.sum(1)
        squares += levels.square().sum(1)
    count = images.numel() / 3
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=1.0).sqrt()
    return mean.float(), deviation.float()
