"""Options that the data at hand do not use are refused, so that none does nothing in silence."""

from collections.abc import Iterable
from dataclasses import fields

from meta_train.training.config import AugmentationConfig, DataConfig
from meta_train.training.recipes import RECIPES

TIMMS = "data that timm opens by name"
DOWNLOADED = "data that timm downloads"
SPLITS = f"folders, tars and {TIMMS}"
INDEXED = "image files that are read in any order"
FILES = "image files"
USED_BY = {
    "data_root": TIMMS,
    "download": DOWNLOADED,
    **dict.fromkeys(("train_split", "validation_split"), SPLITS),
    **dict.fromkeys(("max_broken", "repeats"), INDEXED),
    **dict.fromkeys(("classes", "crop_scale", "flip", "color_jitter"), FILES),
    **dict.fromkeys(("auto_augment", "interpolation", "crop_share"), FILES),
}
"""What data use an option, for messages."""


def refuse_unused(
    config: DataConfig | AugmentationConfig,
    names: Iterable[str],
    *,
    default: DataConfig | AugmentationConfig,
    data: str,
) -> None:
    """Refuse options that were given although the data do not use them.

    Args:
        config: What was given.
        names: Of the options that are not used.
        default: What stands where nothing is given.
        data: What they are, for the message.

    Raises:
        ValueError: It names the options, and which data use them.
    """
    given = [
        f"{_option(name, getattr(config, name))} (for {USED_BY[name]})"
        for name in names
        if getattr(config, name) != getattr(default, name)
    ]
    if given:
        raise ValueError(f"{data} does not use {', '.join(given)}")


def nearest_default(config: AugmentationConfig) -> AugmentationConfig:
    """What an augmentation changes least: the defaults or a recipe's values."""
    candidates = [AugmentationConfig(), *(recipe.augmentation for recipe in RECIPES.values())]
    names = [field.name for field in fields(config)]
    return min(
        candidates,
        key=lambda default: sum(getattr(config, name) != getattr(default, name) for name in names),
    )


def _option(name: str, value: object) -> str:
    """An option as on the command line."""
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return option
    return " ".join([option, *map(str, value if isinstance(value, tuple) else (value,))])
