"""Opening data by name, folder or tar, with an answer in one line where that fails."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from learned_opt.names import unknown_name
from meta_train.training.config import DataConfig
from meta_train.training.data import ArrayData, ImageData
from meta_train.training.images import FileData
from meta_train.training.sources import (
    Source,
    class_names,
    labels_of,
    open_in_colour,
    plain_errors,
    split_evenly,
)
from meta_train.training.streams import StreamData
from meta_train.training.unused import refuse_unused
from tasks.datasets import dataset_names
from tasks.image_splits import (
    HELD_OUT,
    VALIDATION_NAMES,
    SplitNames,
    class_folders,
    is_tar,
    require_one_folder_a_class,
    split_places,
    splits_within,
)
from tasks.registry import UnknownNameError

INDEXED, STREAMED = ("hfds", "torch"), ("hfids", "tfds", "wds")
"""Prefixes of timm's names: data whose images may be read in any order, and data that come in their own."""

PARTIAL = (".part", ".partial", ".incomplete", ".crdownload", ".download", ".aria2", ".tmp")
"""Endings that tools give to files while they download them."""

NAMED = 3

NOT_DOWNLOADED = ("wds", "torch/folder", "torch/image_folder", "torch/imagenet")
"""What timm opens by name and never downloads."""

FROM_TIMM = ("data_root", "download")
FROM_FILES = ("train_split", "validation_split", "classes", "max_broken")
"""Options of what timm opens by name, and of image files."""


def open_data(config: DataConfig, *, recorded: bool = True) -> ImageData:
    """Open the images that a configuration names.

    Args:
        config: Where they are.
        recorded: Whether manifests are wanted, for which every file is looked at.

    Raises:
        UnknownNameError: If it is neither a name, nor a folder, nor a tar.
        ValueError: If data are missing, damaged, unlabelled or not whole, or do not use an option.
    """
    if config.data in dataset_names():
        _refuse(config, *FROM_TIMM, *FROM_FILES, kind="held in memory")
        return ArrayData(config.data)
    prefix, slash, _ = config.data.partition("/")
    if slash and prefix.lower() in STREAMED:
        _refuse(config, "max_broken", *_undownloaded(config), kind="a stream")
        return StreamData(config)
    if slash and prefix.lower() in INDEXED:
        _refuse(config, *_undownloaded(config), kind="files of your own")
        return _open_indexed(config, recorded=recorded)
    path = Path(config.data)
    if path.is_dir() or is_tar(path):
        _refuse(config, *FROM_TIMM, kind="a folder or a tar")
        return _open_path(path, config, recorded=recorded)
    if path.exists():
        raise ValueError(
            f"{path} is a file; expected a folder with one subfolder of images a class, or a .tar of one"
        )
    message = unknown_name("dataset", config.data, dataset_names())
    raise UnknownNameError(
        f"{message}; a folder or a .tar of images will do too, but there is none of that name"
    )


def _refuse(config: DataConfig, *names: str, kind: str) -> None:
    refuse_unused(config, names, default=DataConfig(), data=f"{config.data}, {kind},")


def _undownloaded(config: DataConfig) -> tuple[str, ...]:
    """The option to download, for a name whose data timm does not download."""
    name = config.data.lower()
    return ("download",) if {name, name.partition("/")[0]} & {*NOT_DOWNLOADED} else ()


def _open_indexed(config: DataConfig, *, recorded: bool) -> FileData:
    """Data that timm knows by name and that may be indexed."""
    from timm.data import create_dataset

    sources, classes = [], config.classes
    root = None if config.data_root is None else str(config.data_root)
    for split, name in (("train", config.train_split), ("validation", config.validation_split)):
        with plain_errors(f"{config.data}, split {name},"):
            dataset = create_dataset(config.data, root=root, split=name, download=config.download)
        if hasattr(dataset, "loader"):
            dataset.loader = open_in_colour
        reader = getattr(dataset, "reader", dataset)
        classes = classes or len(getattr(reader, "class_to_idx", None) or ()) or None
        sources.append(Source(split, dataset, most_broken=config.max_broken, recorded=recorded))
    if classes is None:
        raise ValueError(f"{config.data} does not tell its classes; give their number as --classes")
    return FileData(sources[0], sources[1], classes)


def _open_path(path: Path, config: DataConfig, *, recorded: bool) -> FileData:
    """A folder or a tar of images, in two splits or in one that is then divided."""
    places = split_places(path, _split_names(config), tars=True)
    datasets = [_open_place(place) for place in dict.fromkeys(places)]
    names = class_names(datasets[0].reader)
    if len(names) < 2:
        raise ValueError(f"{places[0]} has one class, {names[0]!r}; expected at least two")
    chosen: Any = (None, None)
    note = ""
    if len(datasets) == 1:
        chosen, note = _divide(places[0], datasets[0].reader, config)
        datasets *= 2
    else:
        _require_same_classes(places, names, class_names(datasets[1].reader))
    sources = [
        Source(split, dataset, chosen=which, most_broken=config.max_broken, recorded=recorded)
        for split, dataset, which in zip(("train", "validation"), datasets, chosen, strict=True)
    ]
    return FileData(sources[0], sources[1], _class_count(config, len(names), places[0]), note)


def _divide(place: Path, reader: Any, config: DataConfig) -> tuple[tuple[list[int], list[int]], str]:
    """Which images of one place train and which validate, by its folders' names or evenly; and a note."""
    names, labels, folders = class_names(reader), labels_of(reader), class_folders(reader)
    splits = splits_within(folders, _split_names(config))
    if splits is None:
        _require_splits_by_default(config)
        named = "splits that --train-split and --validation-split name"
        require_one_folder_a_class(place, folders, splits=named)
        chosen = split_evenly(labels)
        return chosen, _unvalidated(names, {labels[index] for index in chosen[1]})
    train, held_out = (
        [n for n, folder in enumerate(folders) if folder.parts[:1] == (split,)] for split in splits
    )
    classes, others = (sorted({names[labels[n]] for n in which}) for which in (train, held_out))
    _require_same_classes((place / splits[0], place / splits[1]), classes, others)
    if len(classes) < len(names):
        strange = sorted({*names} - {*classes})
        raise ValueError(f"{place} has {_listed('class', strange)} outside {splits[0]} and {splits[1]}")
    return (train, held_out), ""


def _require_splits_by_default(config: DataConfig) -> None:
    """Refuse names of splits that were given and are not there."""
    names = config.train_split, config.validation_split
    if names != (DataConfig.train_split, DataConfig.validation_split):
        raise ValueError(
            f"{config.data} does not hold both splits, {names[0]} and {names[1]}; "
            "expected one folder a class in each"
        )


def _unvalidated(names: list[str], validated: set[int]) -> str:
    """Which classes are too small to have a validation image; empty if none is."""
    missing = [name for label, name in enumerate(names) if label not in validated]
    if not missing:
        return ""
    return (
        f"{_listed('class', missing)} of fewer than {HELD_OUT} images without one to validate on: "
        "the accuracy says nothing of them"
    )


def _class_count(config: DataConfig, found: int, place: Path) -> int:
    if config.classes is not None and config.classes < found:
        raise ValueError(
            f"{place} has {found} classes, so that labels go to {found - 1}; "
            f"classes is {config.classes}; expected at least {found}"
        )
    return config.classes or found


def _split_names(config: DataConfig) -> SplitNames:
    given = config.validation_split
    validation = VALIDATION_NAMES if given == DataConfig.validation_split else (given,)
    return SplitNames(config.train_split, validation)


def _open_place(place: Path) -> Any:
    from timm.data import create_dataset

    if place.is_dir():
        _refuse_partial_folder(place)
    with plain_errors(str(place)):
        dataset = create_dataset("", root=str(place), search_split=False)
    loose = (
        Counter(labels_of(dataset.reader))[class_names(dataset.reader).index("")]
        if ("" in class_names(dataset.reader))
        else 0
    )
    if loose:
        raise ValueError(
            f"{place} is not labelled: {loose:,} images lie directly in it; expected one subfolder a class"
        )
    return dataset


def _refuse_partial_folder(folder: Path) -> None:
    """Refuse a folder without images, with a class that has none, or with half a download.

    Raises:
        ValueError: It names the folders or the file.
    """
    from timm.data import get_img_extensions

    endings = tuple(get_img_extensions())
    empty, any_images = [], False
    for root, subfolders, files in os.walk(folder, followlinks=True):
        partial = next((name for name in files if name.lower().endswith(PARTIAL)), None)
        if partial:
            raise ValueError(f"{Path(root) / partial} is half a download; finish it or remove it")
        images = any(name.lower().endswith(endings) for name in files)
        any_images |= images
        if not images and not subfolders and Path(root) != folder:
            empty.append(str(Path(root).relative_to(folder)))
    if not any_images:
        raise ValueError(f"{folder} holds no images; expected one subfolder of images a class")
    if empty:
        raise ValueError(f"{folder} has {_listed('class folder', sorted(empty))} without images")


def _require_same_classes(places: tuple[Path, Path], train: list[str], validation: list[str]) -> None:
    for here, there, index in ((train, validation, 1), (validation, train, 0)):
        missing = [name for name in here if name not in set(there)]
        if missing:
            raise ValueError(
                f"{places[index]} has other classes than {places[1 - index]}: "
                f"it lacks {_listed('class', missing)}"
            )


def _listed(what: str, names: list[str]) -> str:
    """How many there are, and the first of them."""
    shown = ", ".join(map(repr, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
    plural = what if len(names) == 1 else f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{len(names):,} {plural} ({shown})"
