"""Data that come in an order of their own: WebDataset shards and streams of other libraries, through timm."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import get_worker_info

from meta_train.training.augmentation import Transform, timm_options
from meta_train.training.broken import BrokenImages, readable
from meta_train.training.config import DataConfig
from meta_train.training.data import Batch, ImageKind, Plan, TrainingBatches, ValidationBatches
from meta_train.training.manifest import Manifest
from meta_train.training.randomness import seed_generators, seeded_on_cpu
from meta_train.training.sources import plain_errors
from meta_train.training.unused import nearest_default, refuse_unused


class StreamData:
    """A stream of images that timm opens by name; its reader shuffles it by epoch and shares it out.

    Args:
        config: What to open.

    Raises:
        ValueError: If it cannot be opened, or does not tell its size or its classes.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config, self.note = config, ""
        train, validation = (self._open(training=training, seed=0) for training in (True, False))
        classes = config.classes or len(getattr(train.reader, "class_to_idx", None) or ())
        if not classes:
            raise ValueError(f"{config.data} does not tell its classes; give their number as --classes")
        self.kind = ImageKind(3, None, classes)
        self.manifests = {"train": Manifest(len(train)), "validation": Manifest(len(validation))}
        self.broken: dict[str, BrokenImages] = {}

    def training(self, plan: Plan) -> TrainingBatches:
        """See `ImageData.training`; the augmentation of an image depends on its place in the stream.

        A recipe's copies of an image in a batch may stand, and a note says that there are none.
        """
        given, data = plan.augmentation, f"{self.config.data}, a stream,"
        refuse_unused(given, ("repeats",), default=nearest_default(given), data=data)
        if given.repeats > 1:
            self.note = f"{data} gives one copy of an image in a batch, not the recipe's {given.repeats}"
        return StreamTraining(self._labelled(plan, training=True), plan)

    def validation(self, plan: Plan) -> ValidationBatches:
        """See `ImageData.validation`."""
        return StreamValidation(self._labelled(plan, training=False), plan)

    def _labelled(self, plan: Plan, *, training: bool) -> Any:
        """The stream for a plan, which refuses labels that are no class."""
        dataset = self._open(training=training, seed=plan.seed, batch_size=plan.share)
        dataset.target_transform = partial(_in_range, classes=self.kind.classes)
        return dataset

    def _open(self, *, training: bool, seed: int, batch_size: int = 1) -> Any:
        from timm.data import create_dataset

        config = self.config
        split = config.train_split if training else config.validation_split
        with plain_errors(f"{config.data}, split {split},"):
            dataset = create_dataset(
                config.data,
                root=None if config.data_root is None else str(config.data_root),
                split=split,
                is_training=training,
                batch_size=batch_size,
                seed=seed,
                download=config.download,
            )
        if not len(dataset):
            raise ValueError(f"{config.data}, split {split}, does not tell how many images it has")
        return dataset


class StreamTraining:
    """Augmented batches of a stream.

    Args:
        dataset: Timm's.
        plan: How to read it.

    Raises:
        ValueError: If there are too few images for one step, or it cannot be divided among the passes.
    """

    def __init__(self, dataset: Any, plan: Plan) -> None:
        self.dataset, self.plan = dataset, plan
        self.batch_size = plan.batch_size
        self.loader = _loader(dataset, plan, training=True)
        self.transform = PlacedTransform(dataset.transform, plan)
        dataset.transform = self.transform
        self.steps = len(self.loader) // plan.accumulate
        if not self.steps:
            raise ValueError(f"the stream has {len(dataset)} images, too few for a step of {plan.batch_size}")

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        """See `TrainingBatches.epoch`; what comes before ``start`` is read and passed over."""
        self.dataset.set_epoch(number)
        self.transform.restart(number)
        seed_generators(self.plan.seed, "stream", number, self.plan.world.rank)
        first, last = start * self.plan.accumulate, self.steps * self.plan.accumulate
        return islice(readable(self.loader), first, last)


class PlacedTransform:
    """A transform that draws by an image's place: the epoch, the process, its worker, and the count there.

    Args:
        transform: Of an image.
        plan: With the seed.
    """

    def __init__(self, transform: Transform, plan: Plan) -> None:
        self.transform, self.seed, self.rank = transform, plan.seed, plan.world.rank
        self.epoch = self.count = 0

    def restart(self, epoch: int) -> None:
        """Begin an epoch; workers that start after this begin it too."""
        self.epoch, self.count = epoch, 0

    def __call__(self, image: Any) -> Tensor:
        """The next image of the stream, transformed."""
        info = get_worker_info()
        worker = 0 if info is None else info.id
        self.count += 1
        with seeded_on_cpu(self.seed, "stream", self.epoch, self.rank, worker, self.count):
            return self.transform(image)


class StreamValidation:
    """Batches of a stream in order.

    Args:
        dataset: Timm's.
        plan: How to read it.
    """

    def __init__(self, dataset: Any, plan: Plan) -> None:
        self.loader = _loader(dataset, plan, training=False)

    def __iter__(self) -> Iterator[Batch]:
        return readable(self.loader)


def _loader(dataset: Any, plan: Plan, *, training: bool) -> Any:
    from timm.data import create_loader

    return create_loader(
        dataset,
        plan.size,
        plan.share,
        **timm_options(plan.augmentation, training=training),
        num_workers=plan.workers,
        persistent_workers=False,  # an epoch begins with workers that count from its start
        distributed=plan.world.size > 1,
        pin_memory=plan.world.device.type == "cuda",
        device=plan.world.device,
    )


def _in_range(label: int, *, classes: int) -> int:
    if not 0 <= label < classes:
        raise ValueError(f"an image of the stream has label {label}; expected 0 to {classes - 1}")
    return label
