"""timm's Vision Transformers, grey and small or by name, with attention of choice.

The attention layer of any of them may be swapped. ``attention`` is a module class with the signature of
``timm.layers.Attention``: it is built as ``attention(dim, num_heads=, qkv_bias=, qk_norm=, scale_norm=,
proj_bias=, attn_drop=, proj_drop=, norm_layer=, device=, dtype=)`` and called as
``layer(tokens, attn_mask=, is_causal=)`` with tokens ``[B, L, dim]``, of which it returns as many.
"""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from tasks.registry import UnknownNameError


def vision_transformer(
    *,
    image: int,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    classes: int = 10,
    attention: type[nn.Module] | None = None,
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
        attention: Class of the attention layers in place of timm's own.

    Raises:
        ValueError: If a size is below 1 or does not divide what it must.
        TypeError: If ``attention`` is not a module class.
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
    return _finished(
        VisionTransformer(
            img_size=image,
            patch_size=patch,
            in_chans=1,
            num_classes=classes,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            **_swap(attention),
        ),
        attention,
    )


def named_transformer(
    model: str,
    *,
    image: int,
    channels: int = 3,
    classes: int = 1000,
    patch: int | None = None,
    depth: int | None = None,
    attention: type[nn.Module] | None = None,
) -> nn.Module:
    """Build a Vision Transformer that timm knows by name, untrained and without fused attention.

    Args:
        model: A name from ``timm.list_models("vit_*")``.
        image: Side of an image, in pixels.
        channels: Of an image.
        classes: Number of outputs.
        patch: Side of a patch, if not the one in the name; must divide ``image``.
        depth: Number of blocks, if not the model's own.
        attention: Class of the attention layers in place of timm's own.

    Raises:
        UnknownNameError: If timm has no Vision Transformer of that name.
        ValueError: If the patch does not divide the image, the depth is below 1, or the model's attention
            cannot be swapped.
        TypeError: If ``attention`` is not a module class.
    """
    import timm
    from timm.models.vision_transformer import VisionTransformer

    known = timm.list_models("vit_*")
    if model not in known:
        close = difflib.get_close_matches(str(model), known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownNameError(f"timm has no Vision Transformer {model!r}.{hint}")
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    given = {"patch_size": patch, "depth": depth}
    options = _swap(attention) | {key: value for key, value in given.items() if value is not None}
    built = timm.create_model(model, img_size=image, in_chans=channels, num_classes=classes, **options)
    if not isinstance(built, VisionTransformer):
        raise UnknownNameError(f"{model!r} is a {type(built).__name__}; expected a plain Vision Transformer")
    side = built.patch_embed.patch_size[0]
    if image % side:
        raise ValueError(f"patch must divide image, got patch {side} and image {image}")
    return _finished(built, attention)


def _swap(attention: type[nn.Module] | None) -> dict[str, Any]:
    if attention is None:
        return {}
    if not (isinstance(attention, type) and issubclass(attention, nn.Module)):
        raise TypeError(f"attention must be a module class with the signature of timm's, got {attention!r}")
    return {"attn_layer": attention}


def _finished(model: Any, attention: type[nn.Module] | None) -> nn.Module:
    """Turn fused attention off, and make sure that each block holds the attention that was asked for."""
    for block in model.blocks:
        if attention is not None and not any(type(layer) is attention for layer in block.modules()):
            raise ValueError(f"{type(block).__name__} has its attention built in; it cannot be swapped")
        for layer in block.modules():
            if getattr(layer, "fused_attn", False):
                layer.fused_attn = False
    finished: nn.Module = model
    return finished
