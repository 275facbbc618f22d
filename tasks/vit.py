"""Image classification by Vision Transformers, from 8 by 8 pixels to ``vit_base_patch16_224``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.base import ParametricFamily, Params, Task, TaskFamily, draw_seed
from tasks.configurations import never_judged, tasks_of
from tasks.datasets import DataSource, load_dataset
from tasks.draws import log_integer, pick
from tasks.images import ClassSubset, FolderImages
from tasks.module import ClassificationTask
from tasks.patterns import PatternData
from tasks.vit_models import named_transformer, vision_transformer

LEARNING_RATES = (1e-4, 1e-2)
PATTERNS = "patterns"


class VitTask(ClassificationTask):
    """Training a Vision Transformer; evaluated by batches of the size that it trains on.

    So the memory that training takes suffices for images of any size.
    """

    def evaluate(self, params: Params, *, chunk: int | None = None) -> dict[str, float]:
        """Measure the whole validation split, ``chunk`` or else ``batch_size`` examples at a time."""
        return super().evaluate(params, chunk=chunk or self.batch_size)


def timm_vit(
    model: str,
    *,
    data: DataSource | str,
    image: int | None = None,
    patch: int | None = None,
    depth: int | None = None,
    batch_size: int = 64,
    attention: type[nn.Module] | None = None,
    name: str | None = None,
    default_steps: int = 1000,
    learning_rates: tuple[float, float] = LEARNING_RATES,
) -> ClassificationTask:
    """Return the task of training one of timm's Vision Transformers on any data.

    Args:
        model: A name from ``timm.list_models("vit_*")``.
        data: Square images with labels, or the name of a dataset.
        image: Side of the data's images in pixels, if it is to be checked.
        patch: Side of a patch, if not the one in the name.
        depth: Number of blocks, if not the model's own.
        batch_size: Examples in a batch.
        attention: Class of the attention layers in place of timm's own; see ``tasks.vit_models``.
        name: Name of the task; by default the model's.
        default_steps: Number of steps that makes sense.
        learning_rates: Plausible range for Adam.

    Raises:
        UnknownNameError: If timm has no Vision Transformer of that name.
        ValueError: If the images are not square or of another side, or the patch does not divide it.

    Example:
        ``timm_vit("vit_tiny_patch16_224", image=64, data=FolderImages("photos", image=64))``
    """
    source = load_dataset(data) if isinstance(data, str) else data
    channels, height, width = source.draw(torch.Generator().manual_seed(0), (1,), "train")[0].shape[1:]
    if height != width or image not in (None, height):
        expected = "square images" if image is None else f"{image} by {image} pixels"
        raise ValueError(f"data must hold {expected}, got {height} by {width}")
    factory = partial(
        named_transformer,
        model,
        image=height,
        channels=channels,
        classes=source.classes,
        patch=patch,
        depth=depth,
        attention=attention,
    )
    details = (f"patch {patch}, " if patch else "") + (f"{depth} blocks, " if depth else "")
    swapped = f"{attention.__name__}, " if attention else ""
    return VitTask(
        factory,
        source,
        batch_size,
        name=name or model,
        description=(
            f"{model}: {height} pixels, {details}{swapped}{source.classes} classes, batch {batch_size}"
        ),
        default_steps=default_steps,
        learning_rates=learning_rates,
        metric="accuracy",
    )


@dataclass(frozen=True)
class VitConfig:
    """A small transformer on small grey images.

    Args:
        dataset: A name for ``load_dataset``, or ``patterns``: random patterns, shifted and noisy.
        image: Side of an image, in pixels.
        patch: Side of a patch.
        width: Width of a token.
        depth: Number of blocks.
        heads: Attention heads.
        batch_size: Examples in a batch.
    """

    dataset: str
    image: int
    patch: int
    width: int
    depth: int
    heads: int
    batch_size: int

    def __str__(self) -> str:
        return (
            f"{self.dataset}: ViT, patch {self.patch}, width {self.width}, depth {self.depth}, "
            f"batch {self.batch_size}"
        )

    def build(self, seed: int = 0, *, name: str = "vit") -> ClassificationTask:
        """Return the task: one instance, whatever the seed, but for patterns, which the seed draws."""
        sizes = {key: getattr(self, key) for key in ("image", "patch", "width", "depth", "heads")}
        return ClassificationTask(
            partial(vision_transformer, **sizes),
            PatternData(seed, image=self.image) if self.dataset == PATTERNS else load_dataset(self.dataset),
            self.batch_size,
            name=name,
            description=str(self),
            default_steps=1000,
            learning_rates=LEARNING_RATES,
            metric="accuracy",
        )


def _draw(generator: torch.Generator) -> VitConfig:
    dataset, largest = pick(((PATTERNS, 28), ("fashion-mnist", 27)), generator)
    patches = int(torch.randint(2, 8, (), generator=generator))
    patch = log_integer(-(-8 // patches), largest // patches, generator)
    heads = pick((1, 2, 4), generator)
    image = patches * patch
    return VitConfig(
        dataset=dataset if dataset == PATTERNS else f"{dataset}-{image}",
        image=image,
        patch=patch,
        width=heads * log_integer(8, 24, generator),
        depth=int(torch.randint(1, 5, (), generator=generator)),
        heads=heads,
        batch_size=2 ** int(torch.randint(4, 8, (), generator=generator)),
    )


def _draw_family(generator: torch.Generator) -> TaskFamily:
    """Draw a configuration, never on the images of a judge."""
    config = never_judged(_draw, attrgetter("dataset"), _JUDGES.values(), generator)
    return TaskFamily("vit", str(config), partial(_sample, config))


def _sample(config: VitConfig, generator: torch.Generator) -> Task:
    return config.build(draw_seed(generator))


def folder_vit_family(
    folder: str | PathLike[str],
    *,
    image: int,
    model: str = "vit_tiny_patch16_224",
    patch: int | None = None,
    classes: int | None = None,
    batch_size: int = 64,
    attention: type[nn.Module] | None = None,
    **reading: Any,
) -> TaskFamily:
    """Read a folder of images into memory and return the family of training a transformer on it.

    Args:
        folder: See ``FolderImages``.
        image: Side in pixels to which the images are brought, usually 32 to 224.
        model: See ``timm_vit``, as for the patch, the batch size and the attention.
        patch: Side of a patch, if not the one in the name.
        classes: See ``images_vit_family``.
        batch_size: Examples in a batch.
        attention: Class of the attention layers in place of timm's own.
        reading: Options of ``FolderImages``.

    Raises:
        DatasetError: If the folder cannot be used.
        ValueError: If there are not as many classes, or the transformer cannot be built.

    Example:
        ``folder_vit_family("imagenet", image=64, classes=10, per_class=100, patch=8)``
    """
    return images_vit_family(
        FolderImages(folder, image=image, **reading),
        name=f"{Path(folder).name}-{model}-{image}",
        model=model,
        patch=patch,
        classes=classes,
        batch_size=batch_size,
        attention=attention,
    )


def images_vit_family(
    images: FolderImages, *, name: str, model: str, classes: int | None = None, **options: Any
) -> TaskFamily:
    """Return the family of training a transformer on images in memory.

    Args:
        images: Of a folder.
        name: Of the family and its tasks.
        model: See ``timm_vit``.
        classes: Each task tells so many classes apart, drawn at random; None takes them all, always.
        options: The other options of ``timm_vit``.

    Raises:
        ValueError: If there are not as many classes, or the transformer cannot be built.
    """
    if classes is not None and not 2 <= classes <= images.classes:
        raise ValueError(f"classes must be from 2 to the folder's {images.classes}, got {classes}")
    build = partial(timm_vit, model, name=name, **options)
    description = build(data=images).description
    if classes is not None:
        description = f"{description}, of which {classes} a task"
    return TaskFamily(name, description, partial(_sample_of_folder, build, images, classes))


def _sample_of_folder(
    build: Callable[..., Task], images: FolderImages, classes: int | None, generator: torch.Generator
) -> Task:
    if classes is None:
        return build(data=images)
    chosen = torch.randperm(images.classes, generator=generator)[:classes].tolist()
    return build(data=ClassSubset(images, chosen))


_JUDGES = {
    "digits-vit": VitConfig("digits", 8, 2, 32, 3, 4, 64),
    "digits-vit-small": VitConfig("digits", 8, 2, 24, 2, 2, 32),
    "fashion-vit": VitConfig("fashion-mnist", 28, 7, 64, 3, 4, 64),
    "fashion-14-vit": VitConfig("fashion-mnist-14", 14, 7, 32, 2, 2, 32),
}

TASKS = tasks_of(_JUDGES)
JUDGES = frozenset(_JUDGES)

PARAMETRIC = (
    ParametricFamily(
        "vit",
        "Vision Transformers on Fashion-MNIST or random patterns",
        "images of 8 to 28 pixels, 4 to 49 patches, width 8 to 96, depth 1 to 4, batch 16 to 128",
        _draw_family,
    ),
)
