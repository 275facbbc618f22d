"""Batches of image files, read and augmented by timm's pieces in worker processes."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from meta_train.training.augmentation import image_transform
from meta_train.training.broken import UNREADABLE, BrokenImages, BrokenImagesError, readable
from meta_train.training.data import (
    Batch,
    ImageKind,
    Plan,
    Sampled,
    TrainingBatches,
    ValidationBatches,
    training_sampler,
    validation_sampler,
)
from meta_train.training.manifest import Manifest
from meta_train.training.randomness import seed_of, seeded_on_cpu
from meta_train.training.sampling import Key
from meta_train.training.sources import Source

SUBSTITUTES = 10
"""Other images that are tried where one to train on is broken."""


class FileData:
    """Image files, in two splits that may be indexed.

    Args:
        train: To train on.
        validation: To validate on.
        classes: Number of classes.
        note: See `ImageData`.
    """

    def __init__(self, train: Source, validation: Source, classes: int, note: str = "") -> None:
        self.note = note
        self.sources = {"train": train, "validation": validation}
        self.kind = ImageKind(3, None, classes)
        self.manifests: dict[str, Manifest] = {
            name: source.manifest for name, source in self.sources.items() if source.manifest is not None
        }
        self.broken: dict[str, BrokenImages] = {name: source.broken for name, source in self.sources.items()}

    def training(self, plan: Plan) -> TrainingBatches:
        """See `ImageData.training`."""
        return FileTraining(Images(self.sources["train"], plan, self.kind.classes, training=True), plan)

    def validation(self, plan: Plan) -> ValidationBatches:
        """See `ImageData.validation`."""
        images = Images(self.sources["validation"], plan, self.kind.classes, training=False)
        return FileValidation(images, plan)


class FileTraining(Sampled):
    """Shuffled and augmented batches of image files.

    Args:
        images: By key.
        plan: How to read them.
    """

    def __init__(self, images: "Images", plan: Plan) -> None:
        super().__init__(training_sampler(len(images), plan))
        self.loader = prefetched(images, self.sampler, plan)

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        """See `TrainingBatches.epoch`."""
        self.sampler.move_to(number, start)
        return readable(self.loader)


class FileValidation:
    """Batches of image files in order.

    Args:
        images: By key.
        plan: How to read them.
    """

    def __init__(self, images: "Images", plan: Plan) -> None:
        self.loader = prefetched(images, validation_sampler(len(images), plan), plan)

    def __iter__(self) -> Iterator[Batch]:
        return readable(self.loader)


class Images(Dataset[tuple[Tensor, int] | None]):
    """Images of a source by `Key`, cropped and augmented as the seed and the key determine it.

    In place of a broken one, training gets another, which the key determines too; validation gets None.

    Args:
        source: Where they are.
        plan: How to read them.
        classes: Number of classes.
        training: Whether they are to train on.
    """

    def __init__(self, source: Source, plan: Plan, classes: int, *, training: bool) -> None:
        self.source, self.classes, self.training, self.seed = source, classes, training, plan.seed
        self.transform = image_transform(plan.augmentation, plan.size, training=training)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | None:
        found = self._read(key)
        if found is None:
            return None
        image, label = found
        if not 0 <= label < self.classes:
            name = self.source.name(key.image)
            raise ValueError(
                f"{self.source.split} image {name} has label {label}; expected 0 to {self.classes - 1}"
            )
        with seeded_on_cpu(self.seed, "image", *key):
            return self.transform(image), label

    def _read(self, key: Key) -> tuple[Image.Image, int] | None:
        index = key.image
        for attempt in range(SUBSTITUTES if self.training else 1):
            try:
                return self.source.read(index)
            except UNREADABLE:
                self.source.broken.mark([index])
            index = seed_of(self.seed, "substitute", *key, attempt) % len(self)
        if self.training:
            raise BrokenImagesError(
                f"{SUBSTITUTES} images in a row were broken: {self.source.broken.describe()}"
            )
        return None


def prefetched(images: Images, sampler: Sampler[list[Key]], plan: Plan) -> Iterable[Batch]:
    """Batches that timm's prefetcher moves to the device and normalises there, one ahead.

    Args:
        images: By key.
        sampler: Keys of each batch.
        plan: How to read them.
    """
    from timm.data.loader import PrefetchLoader

    loader = DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=plan.workers,
        persistent_workers=plan.workers > 0,
        pin_memory=plan.world.device.type == "cuda",
        collate_fn=partial(_collate, size=plan.size),
        generator=torch.Generator(),
    )
    batches: Iterable[Batch] = PrefetchLoader(loader, device=plan.world.device)
    return batches


def _collate(items: Sequence[tuple[Tensor, int] | None], *, size: int) -> Batch:
    """Images ``[B, 3, size, size]``, uint8, and labels, without the broken ones."""
    from timm.data.loader import fast_collate

    whole = [item for item in items if item is not None]
    if not whole:
        return torch.zeros(0, 3, size, size, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    images, labels = fast_collate(whole)
    return images, labels
