"""Timm's augmentation of training images, as an `AugmentationConfig` chooses it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from meta_train.training.config import AugmentationConfig

Transform = Callable[[Any], Tensor]


def image_transform(config: AugmentationConfig, size: int, *, training: bool) -> Transform:
    """From a picture to bytes ``[3, size, size]``: a random crop and more to train, the centre to validate.

    Raises:
        ValueError: If the policy of ``auto_augment`` is none of timm's.
    """
    from timm.data import create_transform

    options = timm_options(config, training=training)
    try:
        transform: Transform = create_transform(size, **options, use_prefetcher=True)
    except (AssertionError, KeyError, ValueError, IndexError) as error:
        raise ValueError(f"auto_augment is {config.auto_augment!r}, which timm refuses: {error}") from error
    return transform


def timm_options(config: AugmentationConfig, *, training: bool) -> dict[str, Any]:
    """What timm is told of the augmentation of single images, by a transform's or a loader's names."""
    resizing = "bilinear" if config.interpolation == "random" and not training else config.interpolation
    return {
        "is_training": training,
        "scale": config.crop_scale,
        "hflip": config.flip,
        "color_jitter": config.color_jitter,
        "auto_augment": config.auto_augment,
        "interpolation": resizing,
        "crop_pct": config.crop_share,
    }


class BatchAugmentation:
    """Random erasing and mixing of whole batches, on their device.

    Args:
        config: What to do.
        classes: Number of classes.
        device: Of the batches.
    """

    def __init__(self, config: AugmentationConfig, *, classes: int, device: torch.device) -> None:
        from timm.data import Mixup
        from timm.data.random_erasing import RandomErasing
        from timm.loss import create_classification_loss

        self.erase: Callable[[Tensor], Tensor] | None = None
        if config.random_erasing > 0.0:
            self.erase = RandomErasing(config.random_erasing, mode=config.erasing_fill, device=device)
        self.mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
        if config.mixes:
            self.mix = Mixup(
                mixup_alpha=config.mixup,
                cutmix_alpha=config.cutmix,
                prob=config.mix_share,
                mode=config.mix_mode,
                label_smoothing=config.label_smoothing,
                num_classes=classes,
            )
        self.loss: nn.Module = create_classification_loss(
            smoothing=config.label_smoothing, soft_targets=config.mixes
        )

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[B, C, size, size]`` and targets: labels ``[B]``, or shares ``[B, classes]`` if mixed."""
        if self.erase is not None:
            images = self.erase(images)
        return (images, labels) if self.mix is None else self.mix(images, labels)
