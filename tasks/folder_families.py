"""Families whose images the user brings: Vision Transformers of several sizes on a folder of photographs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tasks.base import TaskFamily
from tasks.images import FolderImages
from tasks.vit import images_vit_family


@dataclass(frozen=True)
class FolderFamily:
    """A family of transformers that waits for its folder.

    Args:
        name: Short name, for example ``folder-vit-32``.
        image: Side in pixels to which the images are brought.
        model: One of timm's Vision Transformers.
        patch: Side of a patch.
        depth: Number of blocks, if not the model's own.
        classes: Each task tells so many classes apart, drawn at random; all of them where there are fewer.
        per_class: Most images of a class in either split, the first by name.
        batch_size: Examples in a batch.
    """

    name: str
    image: int
    model: str
    patch: int
    depth: int | None
    classes: int
    per_class: int
    batch_size: int

    @property
    def description(self) -> str:
        """One line for people."""
        blocks = f", {self.depth} blocks" if self.depth else ""
        return f"{self.model}{blocks}, patch {self.patch}, on {self.classes} classes of a folder of yours"

    @property
    def sizes(self) -> str:
        """One short phrase for listings."""
        return f"{self.image} pixels, batch {self.batch_size}, up to {self.per_class} images a class"

    def read(self, folder: Path) -> TaskFamily:
        """Return the family on the images of a folder, which are read once in a process.

        Args:
            folder: See ``tasks.FolderImages``.

        Raises:
            DatasetError: If the folder cannot be used.
        """
        return _read(self, folder)


@cache
def _read(family: FolderFamily, folder: Path) -> TaskFamily:
    images = FolderImages(folder, image=family.image, per_class=family.per_class)
    return images_vit_family(
        images,
        name=family.name,
        model=family.model,
        patch=family.patch,
        depth=family.depth,
        classes=family.classes if family.classes < images.classes else None,
        batch_size=family.batch_size,
    )


_TINY, _SMALL = "vit_tiny_patch16_224", "vit_small_patch16_224"

FAMILIES: tuple[FolderFamily, ...] = (
    FolderFamily("folder-vit-32", 32, _TINY, 4, 4, classes=10, per_class=50, batch_size=32),
    FolderFamily("folder-vit-64", 64, _TINY, 8, 6, classes=20, per_class=30, batch_size=32),
    FolderFamily("folder-vit-128", 128, _TINY, 16, None, classes=50, per_class=20, batch_size=32),
    FolderFamily("folder-vit-224", 224, _SMALL, 16, None, classes=100, per_class=10, batch_size=16),
)
