"""Switch the attention of a Vision Transformer, or of any model of like layers."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from kernattn.modules.attention import KernelAttention, make_mixer
from kernattn.modules.layout import Layout

Model = TypeVar("Model", bound=nn.Module)
_PARTS = ("qkv", "q_norm", "k_norm", "proj", "proj_drop", "num_heads")


def switch_attention(
    model: Model, method: str, *, layout: Layout | None = None, causal: bool = False, **options: Any
) -> Model:
    """Put another method of attention into every self-attention layer of a model, in place.

    A layer is any module with the parts of ``timm.layers.Attention``. Its projections and norms stay as they
    are, with their weights, so that trained ones are kept; what the method learns besides, such as position
    functions, starts anew. A layer that several places share is replaced by one that they share. A layer with
    more than those parts, such as relative or rotary positions of its own, is refused. Absolute position
    embeddings stay: make the model without them (timm: ``pos_embed="none"``) for relative positions alone.

    Args:
        model: Such as ``timm.create_model("vit_tiny_patch16_224")``.
        method: ``"flt"``, ``"performer"``, ``"nprf"``, ``"skyformer"``, ``"schoenbat"``, ``"s4d"``, or
            ``"softmax"`` with relative positions. ``"s4d"`` keeps the values' part of the projections alone.
        layout: Where the tokens are; read off ``model.patch_embed.grid_size`` and ``model.num_prefix_tokens``
            by default.
        causal: Whether a token sees only itself and the past.
        **options: Of the method, for example ``features=128``.

    Returns:
        The model.

    Raises:
        ValueError: If the model has no such layers or is one itself, a layer has what its replacement would
            not have, or an option is out of range; the model is then as it was.

    Example:
        >>> model = timm.create_model("vit_tiny_patch16_224", pos_embed="none")
        >>> switch_attention(model, "flt", features=128, samples=16)
    """
    if _is_attention(model):
        raise ValueError(
            f"model must have attention layers inside, got {type(model).__name__}, which is one itself: "
            "replace it by KernelAttention.replacing"
        )
    modules = model.named_modules(remove_duplicate=False)
    layers = [(name, module) for name, module in modules if _is_attention(module)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no attention layers with {', '.join(_PARTS)}")
    if layout is None:
        layout = _layout(model)
    replacements: dict[nn.Module, KernelAttention] = {}
    for name, module in layers:
        if module not in replacements:
            replacements[module] = _replacement(name, module, method, layout, causal, options)
    for name, module in layers:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, replacements[module])
    return model


def _replacement(
    name: str, module: nn.Module, method: str, layout: Layout, causal: bool, options: dict[str, Any]
) -> KernelAttention:
    """The layer that stands in for the one of that name."""
    if isinstance(module, KernelAttention) and module.mixer.value_only:
        raise ValueError(f"{name} has no queries and keys any more: s4d left its values alone")
    source: Any = module
    width = source.qkv.out_features // (3 * source.num_heads)
    mixer = make_mixer(method, source.num_heads, width, layout, causal=causal, **options)
    try:
        return KernelAttention.replacing(module, mixer)
    except ValueError as error:
        raise ValueError(f"{name} cannot be replaced: {error}") from error


def _is_attention(module: nn.Module) -> bool:
    return all(hasattr(module, part) for part in _PARTS) and isinstance(module.qkv, nn.Linear)


def _layout(model: nn.Module) -> Layout:
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is None:
        return Layout()
    prefix = getattr(model, "num_prefix_tokens", 0)
    return Layout.patches(int(grid[0]), int(grid[1]), prefix=int(prefix))
