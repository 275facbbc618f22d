"""A self-attention layer with the signature of ``timm.layers.Attention``, by any of the methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kernattn.modules.exact import SoftmaxMixer
from kernattn.modules.layout import Layout
from kernattn.modules.mixers import FltMixer, Mixer, PerformerMixer
from kernattn.modules.more_mixers import NprfMixer, S4dMixer, SchoenbatMixer, SkyformerMixer

_TAKEN_OVER = ("qkv", "q_norm", "k_norm", "norm", "gate", "proj", "proj_drop")
"""Parts of another layer that its replacement has too."""
_ARGUMENTS = ("x", "attn_mask", "is_causal")
"""What another layer may be called with."""

METHODS: dict[str, type[Mixer]] = {
    "softmax": SoftmaxMixer,
    "performer": PerformerMixer,
    "flt": FltMixer,
    "nprf": NprfMixer,
    "skyformer": SkyformerMixer,
    "schoenbat": SchoenbatMixer,
    "s4d": S4dMixer,
}


def make_mixer(
    method: str, heads: int, width: int, layout: Layout, *, causal: bool = False, **options: Any
) -> Mixer:
    """Make the inside of a layer by the name of its method.

    Args:
        method: One of `METHODS`.
        heads: ``H``.
        width: ``D``.
        layout: Of the tokens.
        causal: Whether a token sees only itself and the past.
        **options: Of the method.

    Raises:
        ValueError: If there is no such method or an option is out of range.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    return METHODS[method](heads, width, layout, causal=causal, **options)


class KernelAttention(nn.Module):
    """Self-attention that stands where ``timm.layers.Attention`` stood: same arguments, same weights.

    Args:
        dim: Width of the tokens.
        num_heads: ``H``.
        attn_head_dim: ``D``; ``dim / num_heads`` by default.
        dim_out: Width of the result; ``dim`` by default.
        qkv_bias: Whether the first projection has a bias.
        qk_norm: Whether queries and keys are normalised, by ``norm_layer``.
        scale_norm: Whether the result is, before the last projection.
        proj_bias: Whether the last projection has a bias.
        attn_drop: Must be 0: there are no attention weights to drop.
        proj_drop: Dropout of the result.
        norm_layer: Makes a normalisation of a width.
        device: Of the parameters.
        dtype: Of the projections.
        method: One of `METHODS`.
        layout: Where the tokens are; a sequence by default.
        causal: Whether a token sees only itself and the past.
        **options: Of the method.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        attn_head_dim: int | None = None,
        dim_out: int | None = None,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Callable[..., nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        method: str = "flt",
        layout: Layout | None = None,
        causal: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if num_heads < 1 or (attn_head_dim is None and dim % num_heads):
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} and {num_heads}")
        if attn_drop:
            raise ValueError(f"attn_drop must be 0: there are no weights to drop, got {attn_drop}")
        if (qk_norm or scale_norm) and norm_layer is None:
            raise ValueError("norm_layer must be given with qk_norm or scale_norm")
        self.num_heads = num_heads
        self.head_dim = attn_head_dim or dim // num_heads
        self.attn_dim = self.num_heads * self.head_dim
        mixer = make_mixer(method, num_heads, self.head_dim, layout or Layout(), causal=causal, **options)
        self.mixer = mixer.to(device)
        parts = 1 if mixer.value_only else 3
        norm = nn.Identity if norm_layer is None else norm_layer
        self.qkv = nn.Linear(dim, parts * self.attn_dim, bias=qkv_bias, device=device, dtype=dtype)
        self.q_norm = norm(self.head_dim) if qk_norm and parts == 3 else nn.Identity()
        self.k_norm = norm(self.head_dim) if qk_norm and parts == 3 else nn.Identity()
        self.norm = norm(self.attn_dim) if scale_norm else nn.Identity()
        self.gate: nn.Module | None = None
        self.proj = nn.Linear(self.attn_dim, dim_out or dim, bias=proj_bias, device=device, dtype=dtype)
        self.proj_drop = nn.Dropout(proj_drop)

    @classmethod
    def replacing(cls, attention: nn.Module, mixer: Mixer) -> KernelAttention:
        """Make a layer of the projections and norms of another, which it takes over as they are.

        Args:
            attention: With ``qkv``, ``proj``, ``num_heads`` and the rest of ``timm.layers.Attention``.
            mixer: What comes between the projections.

        Raises:
            ValueError: If the layer drops attention weights, has parameters or buffers besides those of its
                projections, norms and gate, or is called with more than ``x``, ``attn_mask`` and
                ``is_causal``. It is then as it was.
        """
        _check_replaceable(attention)
        source: Any = attention
        if getattr(getattr(source, "attn_drop", None), "p", 0.0):
            raise ValueError(f"attn_drop must be 0: there are no weights to drop, got {source.attn_drop.p}")
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.num_heads, layer.head_dim = mixer.heads, mixer.width
        layer.attn_dim = mixer.heads * mixer.width
        layer.qkv = _value_rows(source.qkv, layer.attn_dim) if mixer.value_only else source.qkv
        layer.mixer = mixer.to(source.qkv.weight.device)
        for name in ("q_norm", "k_norm"):
            setattr(layer, name, nn.Identity() if mixer.value_only else source.get_submodule(name))
        layer.norm = getattr(source, "norm", nn.Identity())
        layer.gate = getattr(source, "gate", None)
        layer.proj, layer.proj_drop = source.proj, source.proj_drop
        taken_over = set(attention.modules())
        for module in layer.modules():
            if module not in taken_over:
                module.training = attention.training
        return layer

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        *,
        position: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: Tokens, ``[B, L, dim]``.
            attn_mask: Boolean, False where a key is padding: ``[B, L]``, or the same for all queries as
                ``[B or 1, 1, 1, L]``. Exact softmax also takes ``[B or 1, H or 1, L, L]``, boolean or to be
                added to the scores.
            is_causal: May be True only if the layer was made causal.
            position: ``[L, l]`` or ``[B, L, l]``, where positions come with the input.

        Returns:
            ``[B, L, dim]``.

        Raises:
            ValueError: If shapes disagree, or the mask or causality is not possible.
        """
        if x.dim() != 3:
            raise ValueError(f"x must be [B, L, dim], got shape {list(x.shape)}")
        if is_causal and not self.mixer.causal:
            raise ValueError("is_causal needs a layer made with causal=True")
        batch, length, _ = x.shape
        mask = self._mask(attn_mask, batch, length)
        parts = self.qkv(x).unflatten(-1, (-1, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        query, key, value = (parts[0],) * 3 if self.mixer.value_only else parts.unbind(0)
        output = self.mixer(self.q_norm(query), self.k_norm(key), value, mask=mask, position=position)
        output = self.norm(output.transpose(1, 2).flatten(-2))
        if self.gate is not None:
            output = output * self.gate(x).sigmoid()
        projected: Tensor = self.proj_drop(self.proj(output))
        return projected

    def _mask(self, mask: Tensor | None, batch: int, length: int) -> Tensor | None:
        """The mask as ``[B, L]`` of keys, or as it is where pairs are possible."""
        if mask is None or (mask.dim() == 4 and self.mixer.any_mask):
            return mask
        keys = mask[:, 0, 0] if mask.dim() == 4 and mask.shape[1:3] == (1, 1) else mask
        if keys.dtype == torch.bool and keys.dim() == 2 and keys.shape[0] in (1, batch):
            return keys.expand(batch, length)
        raise ValueError(
            f"attn_mask must be boolean [B, L] = [{batch}, {length}] or [B, 1, 1, L], the same for all "
            f"queries, got {mask.dtype} {list(mask.shape)}"
        )

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw anew whatever is random in the method."""
        self.mixer.redraw(generator)


def _check_replaceable(attention: nn.Module) -> None:
    """Raise ValueError if a layer has state, or arguments, that its replacement would not have."""
    name, again = type(attention).__name__, isinstance(attention, KernelAttention)
    state = (*attention.named_parameters(), *attention.named_buffers())
    owners = dict.fromkeys(key.partition(".")[0] for key, _ in state)
    parts = (*_TAKEN_OVER, "mixer") if again else _TAKEN_OVER
    lost = [owner for owner in owners if owner not in parts]
    if lost:
        raise ValueError(
            f"{name} has {', '.join(lost)}: expected parameters and buffers in {', '.join(_TAKEN_OVER)} alone"
        )
    arguments = (*_ARGUMENTS, "position") if again else _ARGUMENTS
    more = [key for key in inspect.signature(attention.forward).parameters if key not in arguments]
    if more:
        raise ValueError(f"{name}.forward takes {', '.join(more)}: expected only {', '.join(_ARGUMENTS)}")


def _value_rows(qkv: nn.Linear, width: int) -> nn.Linear:
    """The part of a joint projection that makes the values."""
    rows = nn.Linear(
        qkv.in_features, width, bias=qkv.bias is not None, device=qkv.weight.device, dtype=qkv.weight.dtype
    )
    with torch.no_grad():
        rows.weight.copy_(qkv.weight[-width:])
        if qkv.bias is not None:
            rows.bias.copy_(qkv.bias[-width:])
    return rows


def redraw(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw anew whatever is random in the attention layers of a model."""
    for module in model.modules():
        if isinstance(module, KernelAttention):
            module.redraw(generator)
