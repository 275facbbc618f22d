"""What can be chosen of the data, their augmentation and the training."""

from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Literal

from tyro.conf import FlagCreatePairsOff


@dataclass(frozen=True)
class DataConfig:
    """Images.

    Args:
        data: digits, fashion-mnist, a folder of images (train and validation subfolders with one subfolder a
            class, or just one subfolder a class), a tar of one, or a name of timm's such as hfds/NAME,
            hfids/NAME, wds/, tfds/NAME or torch/NAME.
        data_root: Where timm keeps or finds the data that it knows by such a name.
        train_split: Split to train on, of such data, a folder or a tar.
        validation_split: Split to validate on, likewise.
        classes: Number of classes, where the data does not tell it.
        download: Let timm download such data if they are not there; it never does those of wds/.
        max_broken: Share of a split's images that may be unreadable; they are counted, named and skipped.
        workers: Processes that read image files.
    """

    data: str = "digits"
    data_root: Path | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    classes: int | None = None
    download: FlagCreatePairsOff[bool] = False
    max_broken: float = 0.01
    workers: int = 2

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_broken <= 1.0:
            raise ValueError(f"max_broken is {self.max_broken}; expected a share from 0 to 1")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; expected at least 0")
        if self.classes is not None and self.classes < 2:
            raise ValueError(f"classes is {self.classes}; expected at least 2")


@dataclass(frozen=True)
class AugmentationConfig:
    """Augmentation of the training images; each is timm's.

    Args:
        crop_scale: Least and largest share of an image's area that a random crop keeps.
        flip: Probability of a mirror image.
        color_jitter: Strength of random brightness, contrast and saturation; unused with auto_augment.
        auto_augment: A policy such as rand-m9-mstd0.5-inc1; none by default.
        interpolation: How images are resized: bilinear, bicubic or random.
        crop_share: Side of the centre crop that validates, as a share of the shorter side.
        repeats: Copies of an image in a batch, each augmented in its own way; a stream gives one.
        random_erasing: Probability of erasing a rectangle.
        erasing_fill: What it is filled with.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of cutmix; 0 for none.
        mix_share: Probability of either.
        mix_mode: Whether images of a batch are mixed alike, in pairs or each in its own way.
        label_smoothing: Share of the target that is spread over all classes.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str | None = None
    interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"
    crop_share: float = 0.875
    repeats: int = 1
    random_erasing: float = 0.0
    erasing_fill: Literal["const", "rand", "pixel"] = "pixel"
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_share: float = 1.0
    mix_mode: Literal["batch", "pair", "elem"] = "batch"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "random_erasing", "mix_share"):
            _require(name, getattr(self, name), 0.0, 1.0, "a probability")
        for name in ("mixup", "cutmix", "color_jitter"):
            _require(name, getattr(self, name), 0.0, inf, "at least 0")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; expected a share below 1")
        if not 0.0 < self.crop_share <= 1.0:
            raise ValueError(f"crop_share is {self.crop_share}; expected above 0 and at most 1")
        if not 0.0 < self.crop_scale[0] <= self.crop_scale[1] <= 1.0:
            raise ValueError(f"crop_scale is {self.crop_scale}; expected two ascending shares above 0")
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; expected at least 1")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return self.mixup > 0.0 or self.cutmix > 0.0


@dataclass(frozen=True)
class FitConfig:
    """Training.

    Args:
        epochs: Passes through the training images.
        batch_size: Images a step, of all processes together.
        accumulate: Passes through the model a step, each with its share of the images.
        warmup: Share of all steps in which the learning rate rises; by default 0.05, and 0 for a learned
            optimizer with a schedule of its own.
        warmup_lr: Learning rate from which it rises.
        min_lr: Learning rate to which a cosine falls.
        schedule: What the learning rate does after the warm-up; by default cosine, and constant for a learned
            optimizer with a schedule of its own.
        clip_grad: Bound on the gradient, none by default.
        clip_mode: Whether its norm or its values are bounded, or its norm relative to each weight's.
        amp: Lower precision of the model's computation: bf16, or fp16 with scaled losses.
        channels_last: Keep images and filters with the channels innermost.
        compiled: Compile the model.
        ema: Decay of a moving average of the weights, which is then validated too; none by default.
        log_every: Steps between records of loss and speed.
        checkpoint_every: Steps between checkpoints, beside those at the end of each epoch.
        stop_after: Stop and save after so many steps, as for a trial; --resume goes on.
    """

    epochs: int = 30
    batch_size: int = 64
    accumulate: int = 1
    warmup: float | None = None
    warmup_lr: float = 0.0
    min_lr: float = 0.0
    schedule: Literal["cosine", "constant"] | None = None
    clip_grad: float | None = None
    clip_mode: Literal["norm", "value", "agc"] = "norm"
    amp: Literal["off", "bf16", "fp16"] = "off"
    channels_last: FlagCreatePairsOff[bool] = False
    compiled: FlagCreatePairsOff[bool] = False
    ema: float | None = None
    log_every: int = 20
    checkpoint_every: int = 1000
    stop_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.stop_after is not None and self.stop_after < 1:
            raise ValueError(f"stop_after is {self.stop_after}; expected at least 1")
        if self.warmup is not None and not 0.0 <= self.warmup < 1.0:
            raise ValueError(f"warmup is {self.warmup}; expected a share of at least 0 and below 1")
        for name in ("warmup_lr", "min_lr"):
            _require(name, getattr(self, name), 0.0, inf, "at least 0")
        if self.clip_grad is not None and not 0.0 < self.clip_grad < inf:
            raise ValueError(f"clip_grad is {self.clip_grad}; expected a number above 0")
        if self.clip_mode != "norm" and self.clip_grad is None:
            raise ValueError(f"clip_mode is {self.clip_mode!r}, and clip_grad none; expected a bound, too")
        if self.ema is not None and not 0.0 < self.ema < 1.0:
            raise ValueError(f"ema is {self.ema}; expected a decay between 0 and 1")

    def scheduled(self, *, constant: bool) -> "FitConfig":
        """With a warm-up and a schedule in place of those that are None.

        Args:
            constant: Whether the learning rate is then constant, as the optimizer has a schedule of its own.
        """
        return replace(
            self,
            warmup=(0.0 if constant else 0.05) if self.warmup is None else self.warmup,
            schedule=self.schedule or ("constant" if constant else "cosine"),
        )


def _require(name: str, value: float, least: float, most: float, expected: str) -> None:
    if not least <= value <= most or value == inf:
        raise ValueError(f"{name} is {value}; expected {expected}")
