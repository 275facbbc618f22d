"""Which folders of images are splits and which are classes, as their names and what lies beside them tell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from tasks.datasets import DatasetError

VALIDATION_NAMES = ("validation", "val", "valid", "test")
HELD_OUT = 5
"""One image in so many of each class validates where there is no split of its own."""


@dataclass(frozen=True)
class SplitNames:
    """What the folders of the splits are called.

    Attributes:
        train: That to train on.
        validation: That to validate on; of several that are there, the first.
    """

    train: str = "train"
    validation: tuple[str, ...] = VALIDATION_NAMES


USUAL_NAMES = SplitNames()


def split_places(path: Path, names: SplitNames = USUAL_NAMES, *, tars: bool = False) -> tuple[Path, Path]:
    """Where the training and the validation images are; the same place twice if they are not split.

    Args:
        path: A folder, or a tar.
        names: Of the splits.
        tars: Whether a split may be a tar too.
    """
    train = find_split(path, (names.train,), tars=tars)
    if train is None or is_class(train):
        return path, path
    return train, find_split(path, names.validation, tars=tars) or train


def find_split(path: Path, names: Sequence[str], *, tars: bool = False) -> Path | None:
    """The first of some splits that is there, as a folder or a tar."""
    places = (place for name in names for place in (path / name, path / f"{name}.tar"))
    return next((place for place in places if place.is_dir() or (tars and is_tar(place))), None)


def is_tar(path: Path) -> bool:
    """Whether there is a tar."""
    return path.suffix == ".tar" and path.is_file()


def is_class(folder: Path) -> bool:
    """Whether a folder that is called as a split is a class, as those beside it: of trains, say."""
    if not folder.is_dir() or _subfolders(folder):
        return False
    splits = {folder.name, *VALIDATION_NAMES}
    return any(not _subfolders(other) for other in _subfolders(folder.parent) if other.name not in splits)


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def class_folders(reader: Any) -> list[PurePath]:
    """The folder of every image of a folder or a tar, below what all share; a tar within a tar is one too."""
    if hasattr(reader, "class_to_idx"):
        folders = [os.path.dirname(path) for path, _ in reader.samples]
    else:
        folders = [
            os.path.join(os.path.splitext(inner.name)[0] if inner else "", os.path.dirname(member.path))
            for member, _, inner in reader.samples
        ]
    different = set(folders)
    shared = os.path.commonpath(different)
    below = {folder: PurePath(folder).relative_to(shared) for folder in different}
    return [below[folder] for folder in folders]


def splits_within(folders: Sequence[PurePath], names: SplitNames = USUAL_NAMES) -> tuple[str, str] | None:
    """Names of the splits, to train and to validate on, in which classes lie; None unless both are there.

    Args:
        folders: Of the images, see `class_folders`.
        names: Of the splits.
    """
    within = {folder.parts[0] for folder in set(folders) if len(folder.parts) > 1}
    validation = next((name for name in names.validation if name in within), None)
    return None if validation is None or names.train not in within else (names.train, validation)


def hold_out(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Indices that train and that validate: every fifth image of each class, in order."""
    seen: dict[int, int] = {}
    chosen: tuple[list[int], list[int]] = ([], [])
    for index, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        chosen[seen[label] % HELD_OUT == 0].append(index)
    return chosen


def require_one_folder_a_class(place: Path, folders: Sequence[PurePath], *, splits: str) -> None:
    """Refuse a class whose images lie in several folders, as those of splits do that have other names.

    Args:
        place: Where the folders are.
        folders: Of the images, see `class_folders`.
        splits: Which splits are known, for the message.

    Raises:
        DatasetError: It names the class and two of its places.
    """
    parents: dict[str, list[str]] = {}
    for folder in sorted(set(folders)):
        parents.setdefault(folder.name, []).append(f"{folder.parent}/")
    for name, found in parents.items():
        if len(found) > 1:
            raise DatasetError(
                f"{place}: class {name!r} occurs under {found[0]} and {found[1]}; expected one folder a "
                f"class, or {splits}"
            )
