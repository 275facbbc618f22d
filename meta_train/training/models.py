"""Image classifiers by name, fitted to the data."""

from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from meta_train.training.data import FOLDER_SIZE, ImageKind
from tasks.registry import UnknownNameError

SMALL_VIT = "vit-small-images"
SMALL_VIT_FOLDER_SIZE = 64
TOKENS_PER_SIDE = 4


def build_model(
    name: str,
    kind: ImageKind,
    *,
    image_size: int | None,
    patch_size: int | None = None,
    drop_path: float = 0.0,
    dropout: float = 0.0,
) -> tuple[nn.Module, int]:
    """Build a classifier with random weights.

    Args:
        name: A model of timm's, or `SMALL_VIT`: a Vision Transformer of 0.2 M parameters and 16 tokens.
        kind: Of the images.
        image_size: Side of the images that the model gets; by default that of the data, or the one that the
            model is made for where it has one or the data has none.
        patch_size: Side of the patches of a Vision Transformer, by default its own.
        drop_path: Probability of leaving out a block, where the model has that.
        dropout: Probability of dropping a feature, where the model has that.

    Returns:
        The model, and the side of the images that it takes.

    Raises:
        UnknownNameError: If timm has no such model; the message has the closest.
        ValueError: If the model cannot be built for such images.
    """
    import timm

    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size is {image_size}; expected at least 1")
    if patch_size is not None and patch_size < 1:
        raise ValueError(f"patch_size is {patch_size}; expected at least 1")
    options: dict[str, Any] = {"in_chans": kind.channels, "num_classes": kind.classes}
    options |= {"drop_path_rate": drop_path} if drop_path else {}
    options |= {"drop_rate": dropout} if dropout else {}
    if name == SMALL_VIT:
        size = image_size or kind.size or SMALL_VIT_FOLDER_SIZE
        patch = max(1, size // TOKENS_PER_SIDE)
        options |= {"img_size": size, "patch_size": patch, "embed_dim": 64, "depth": 4, "num_heads": 4}
        name = "vit_tiny_patch16_224"
    else:
        size = _size(name, kind, image_size, options)
    options |= {"patch_size": patch_size} if patch_size else {}
    try:
        model: nn.Module = timm.create_model(name, **options)
        with torch.no_grad():
            model.eval()(torch.zeros(1, kind.channels, size, size))
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{name} does not take images of {size} by {size}: {error}") from error
    return model, size


def _size(name: str, kind: ImageKind, image_size: int | None, options: dict[str, Any]) -> int:
    """Side of the images of a timm model; tells models whose size is fixed when they are built."""
    import timm

    if not timm.is_model(name):
        known = [SMALL_VIT, *timm.list_models()]
        close = get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise UnknownNameError(f"Unknown model {name!r}.{hint} timm.list_models() has all {len(known) - 1}.")
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        if image_size is not None:
            options["img_size"] = image_size
        return image_size or config.input_size[-1]
    return image_size or kind.size or FOLDER_SIZE
