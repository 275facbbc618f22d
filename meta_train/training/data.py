"""Labelled images to train on: the interface, and datasets that are held in memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn.functional import interpolate

from meta_train.training.broken import BrokenImages
from meta_train.training.config import AugmentationConfig
from meta_train.training.manifest import Manifest, tensor_manifest
from meta_train.training.processes import World
from meta_train.training.sampling import EpochSampler, Key, OrderedSampler, parts_of
from meta_train.training.unused import nearest_default, refuse_unused
from tasks.base import Split
from tasks.datasets import Dataset, load_dataset

FOLDER_SIZE = 224
SPLITS: tuple[Split, Split] = ("train", "validation")

POLICIES = ("auto_augment", "color_jitter")
CROPS = ("crop_scale", "flip", "interpolation", "crop_share", "repeats")
"""Augmentation that images in memory do not get; a recipe's crops may stand, its policies may not."""

Batch = tuple[Tensor, Tensor]
"""Images ``[B, C, size, size]``, float32, and labels ``[B]``, int64."""


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


@dataclass(frozen=True)
class Plan:
    """How images are to be read.

    Attributes:
        size: Side to which they are resized.
        batch_size: Images a step, of all processes.
        accumulate: Passes a step, each with its share of the images.
        augmentation: Of the training images.
        seed: Draws order and augmentation.
        workers: Processes that read files.
        world: The processes that train.
    """

    size: int
    batch_size: int
    accumulate: int
    augmentation: AugmentationConfig
    seed: int
    workers: int
    world: World

    @property
    def share(self) -> int:
        """Images of a process in a pass.

        Raises:
            ValueError: If a step cannot be divided so.
        """
        return self.batch_size // parts_of(self.batch_size, accumulate=self.accumulate, world=self.world)


class TrainingBatches(Protocol):
    """Batches of the training images, one for every pass through the model."""

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""

    @property
    def batch_size(self) -> int:
        """Images a step, of all processes."""

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        """Batches of an epoch, from 0, from one of its steps on."""


class ValidationBatches(Protocol):
    """Batches of the validation images, in order."""

    def __iter__(self) -> Iterator[Batch]: ...


class ImageData(Protocol):
    """Images of a training and a validation split.

    Attributes:
        kind: Of the images.
        manifests: What was read, by split.
        broken: Which images could not be read, by split; empty where that cannot happen.
        note: What one should know of them before a run, without a full stop; empty if nothing.
    """

    kind: ImageKind
    manifests: dict[str, Manifest]
    broken: dict[str, BrokenImages]
    note: str

    def training(self, plan: Plan) -> TrainingBatches:
        """Batches to train on.

        Raises:
            ValueError: If the plan cannot be followed with these images.
        """

    def validation(self, plan: Plan) -> ValidationBatches:
        """Batches to validate on."""


class ArrayData:
    """A dataset that is held in memory.

    Args:
        name: One of `tasks.datasets.dataset_names`.

    Raises:
        ValueError: If it is missing or damaged.
    """

    note = ""

    def __init__(self, name: str) -> None:
        self.name = name
        dataset = load_dataset(name)
        self.splits = {split: _whole(dataset, split) for split in SPLITS}
        shape = self.splits["train"][0].shape
        self.kind = ImageKind(shape[1], shape[-1], dataset.classes)
        self.manifests: dict[str, Manifest] = {
            split: tensor_manifest(*tensors) for split, tensors in self.splits.items()
        }
        self.broken: dict[str, BrokenImages] = {}

    def training(self, plan: Plan) -> TrainingBatches:
        """See `ImageData.training`; there are no file workers and no augmentation of single images."""
        given, data = plan.augmentation, f"{self.name}, held in memory,"
        refuse_unused(given, POLICIES, default=AugmentationConfig(), data=data)
        refuse_unused(given, CROPS, default=nearest_default(given), data=data)
        return ArrayTraining(*self.splits["train"], plan)

    def validation(self, plan: Plan) -> ValidationBatches:
        """See `ImageData.validation`."""
        return ArrayValidation(*self.splits["validation"], plan)


class Sampled:
    """What training batches tell of their sampler.

    Args:
        sampler: Which images come in which order.
    """

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    @property
    def steps(self) -> int:
        """See `TrainingBatches.steps`."""
        return self.sampler.steps

    @property
    def batch_size(self) -> int:
        """See `TrainingBatches.batch_size`."""
        return self.sampler.batch_size


class ArrayTraining(Sampled):
    """Shuffled batches of images in memory, resized as they come.

    Args:
        images: ``[N, C, height, width]``.
        labels: ``[N]``.
        plan: How to read them.
    """

    def __init__(self, images: Tensor, labels: Tensor, plan: Plan) -> None:
        super().__init__(training_sampler(len(labels), plan))
        self.images, self.labels, self.size = images, labels, plan.size

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        """See `TrainingBatches.epoch`."""
        self.sampler.move_to(number, start)
        return _looked_up(self.images, self.labels, self.sampler, self.size)


class ArrayValidation:
    """Batches of images in memory, in order.

    Args:
        images: ``[N, C, height, width]``.
        labels: ``[N]``.
        plan: How to read them.
    """

    def __init__(self, images: Tensor, labels: Tensor, plan: Plan) -> None:
        self.images, self.labels, self.size = images, labels, plan.size
        self.sampler = validation_sampler(len(labels), plan)

    def __iter__(self) -> Iterator[Batch]:
        return _looked_up(self.images, self.labels, self.sampler, self.size)


def _looked_up(images: Tensor, labels: Tensor, sampler: Iterable[list[Key]], size: int) -> Iterator[Batch]:
    for keys in sampler:
        index = [key.image for key in keys]
        yield _resized(images[index], size), labels[index]


def _whole(dataset: Dataset, split: Split) -> Batch:
    images, labels = next(dataset.chunks(split, dataset.size(split)))
    return images, labels


def training_sampler(count: int, plan: Plan) -> EpochSampler:
    """What a process trains on, as a plan has it."""
    return EpochSampler(
        count,
        batch_size=plan.batch_size,
        accumulate=plan.accumulate,
        repeats=plan.augmentation.repeats,
        seed=plan.seed,
        world=plan.world,
    )


def validation_sampler(count: int, plan: Plan) -> OrderedSampler:
    """What a process validates, as many images a pass as when it trains."""
    return OrderedSampler(count, batch_size=plan.share, world=plan.world)


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
