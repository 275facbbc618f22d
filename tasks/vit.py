"""Image classification by timm's Vision Transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from tasks.base import Task
from tasks.datasets import load_dataset
from tasks.module import ClassificationTask


def vision_transformer(
    *, image: int, patch: int, width: int, depth: int, heads: int, classes: int = 10
) -> nn.Module:
    """Build timm's ``VisionTransformer`` for grey square images, with a class token and learned positions.

    Its fused attention is off: PyTorch's fused kernels on the CPU have no rule for ``torch.func.vmap``. The
    function that it computes is the same.

    Args:
        image: Side of an image, in pixels.
        patch: Side of a patch, in pixels; must divide ``image``.
        width: Width of a token.
        depth: Number of blocks.
        heads: Attention heads; must divide ``width``.
        classes: Number of outputs.

    Raises:
        ValueError: If a size is below 1 or does not divide what it must.
    """
    from timm.models.vision_transformer import VisionTransformer  # timm takes seconds to import

    sizes = {
        "image": image,
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": heads,
        "classes": classes,
    }
    for size, value in sizes.items():
        if value < 1:
            raise ValueError(f"{size} must be at least 1, got {value}")
    if image % patch:
        raise ValueError(f"patch must divide image, got patch {patch} and image {image}")
    if width % heads:
        raise ValueError(f"heads must divide width, got {heads} heads and width {width}")
    model: Any = VisionTransformer(
        img_size=image,
        patch_size=patch,
        in_chans=1,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
    )
    for block in model.blocks:
        block.attn.fused_attn = False
    module: nn.Module = model
    return module


def image_vit(
    _seed: int = 0,
    *,
    name: str,
    dataset: str,
    image: int,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    batch_size: int,
) -> ClassificationTask:
    """Return the task of training a Vision Transformer on a dataset: one instance, whatever the seed."""
    return ClassificationTask(
        partial(vision_transformer, image=image, patch=patch, width=width, depth=depth, heads=heads),
        load_dataset(dataset),
        batch_size,
        name=name,
        description=f"{dataset}: ViT, patch {patch}, width {width}, depth {depth}, batch {batch_size}",
        default_steps=1000,
        learning_rates=(1e-4, 1e-2),
        metric="accuracy",
    )


TASKS: dict[str, Callable[[int], Task]] = {
    "digits-vit": partial(
        image_vit,
        name="digits-vit",
        dataset="digits",
        image=8,
        patch=2,
        width=32,
        depth=3,
        heads=4,
        batch_size=64,
    ),
    "fashion-vit": partial(
        image_vit,
        name="fashion-vit",
        dataset="fashion-mnist",
        image=28,
        patch=7,
        width=64,
        depth=3,
        heads=4,
        batch_size=64,
    ),
}
