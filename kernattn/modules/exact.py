"""Exact softmax attention between the projections of a layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernattn.modules.layout import Layout
from kernattn.modules.mixers import Mixer
from kernattn.modules.position import DecayRate, PositionFunction
from kernattn.rpe import relative_log_mask
from kernattn.toeplitz import grid_lags, toeplitz_matrix


class SoftmaxMixer(Mixer):
    """Exact softmax attention, with a learned position function or without positions; O(L^2).

    Args:
        heads: ``H``.
        width: ``D``.
        layout: Of the tokens.
        causal: Whether a token sees only itself and the past.
        relative: Whether there is a position function.
        components: Of the position function.
        isotropic: Whether it depends on the distance alone.
        decay: Whether, causal and relative, it also forgets at a learned rate per token, in raster order.

    Raises:
        ValueError: If a number is out of range.
    """

    any_mask = True

    def __init__(
        self,
        heads: int,
        width: int,
        layout: Layout,
        *,
        causal: bool = False,
        relative: bool = True,
        components: int = 8,
        isotropic: bool = False,
        decay: bool = True,
    ) -> None:
        super().__init__(heads, width, layout, causal=causal)
        self.position = (
            PositionFunction(heads, layout, components=components, limit=torch.inf, isotropic=isotropic)
            if relative
            else None
        )
        self.decay = DecayRate(heads, layout) if relative and decay and causal else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """Attend; see `Mixer`."""
        if self.position is None and mask is None:
            return functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        if mask is not None and mask.dim() == 2:
            key, value = (x.masked_fill(~mask[:, None, :, None], 0.0) for x in (key, value))
        bias = self._bias(query, mask, position)
        empty = (bias == -torch.inf).all(dim=-1, keepdim=True)
        output = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.masked_fill(empty, 0.0)
        )
        return output.masked_fill(empty, 0.0)

    def _bias(self, query: Tensor, mask: Tensor | None, position: Tensor | None) -> Tensor:
        """What is added to the scores, -inf where a pair is forbidden, ``[B or 1, H or 1, L, L]``."""
        token = torch.arange(query.shape[-2], device=query.device)
        lag = token[:, None] - token
        bias = query.new_zeros(1, 1, *lag.shape)
        if self.position is not None:
            prefix = self.layout.prefix
            bias = functional.pad(self._log_mask(query, position), (prefix, 0, prefix, 0))
        if self.decay is not None:
            bias = bias - self.decay().to(bias.dtype)[:, None, None] * lag.abs()
        if mask is not None:
            pairs = mask[:, None, None, :] if mask.dim() == 2 else mask
            bias = bias.masked_fill(~pairs, -torch.inf) if pairs.dtype == torch.bool else bias + pairs
        if self.causal:
            bias = bias.masked_fill(lag < 0, -torch.inf)
        return bias.to(query.dtype)

    def _log_mask(self, query: Tensor, position: Tensor | None) -> Tensor:
        """The position function at all pairs after the prefix, ``[B or 1, H, L, L]``."""
        assert self.position is not None
        mixture = self.position.mixture()
        where = self.where(query, position)
        if position is not None:
            log_mask = relative_log_mask(mixture, where)
            return log_mask if log_mask.dim() == 4 else log_mask[None]
        grid = self.layout.grid or (len(where),)
        table = mixture.log_mask(grid_lags(grid, device=query.device))
        return toeplitz_matrix(table, axes=len(grid))[None]
