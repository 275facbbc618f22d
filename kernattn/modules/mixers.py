"""What each method does between the projections: queries, keys and values in, values out.

All take ``[B, H, L, .]`` and a mask of the keys, own what they learn (position functions, landmarks, powers)
and what they draw (projections, frequencies, signs), and can draw again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from kernattn._checks import check_counts
from kernattn.features import gaussian_projection
from kernattn.fused import flt_features
from kernattn.linear import causal_linear_attention, linear_attention, mask_tokens
from kernattn.modules.layout import Layout
from kernattn.modules.position import DecayRate, PositionFunction
from kernattn.performer import Kind, causal_performer_attention, check_kind, performer_attention


class Mixer(nn.Module, ABC):
    """A method of attention within a layer.

    Args:
        heads: ``H``.
        width: ``D``, of queries, keys and values of a head.
        layout: Of the tokens.
        causal: Whether a token sees only itself and the past.

    Raises:
        ValueError: If a number is out of range.
    """

    any_mask: ClassVar[bool] = False
    """Whether a mask of pairs is possible, and not of keys alone."""
    value_only: ClassVar[bool] = False
    """Whether queries and keys are not looked at."""

    def __init__(self, heads: int, width: int, layout: Layout, *, causal: bool = False) -> None:
        super().__init__()
        check_counts(heads=heads, width=width)
        self.heads, self.width, self.layout, self.causal = heads, width, layout, causal

    @abstractmethod
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: ``[B, H, L, D]``.
            key: ``[B, H, L, D]``.
            value: ``[B, H, L, V]``.
            mask: False where a key is padding, ``[B, L]``; where `any_mask`, also ``[B, 1 or H, L, L]``,
                boolean or to be added to the scores. A query without keys reads 0.
            position: ``[L, l]`` or ``[B, L, l]`` after the prefix; those of the layout by default.

        Returns:
            ``[B, H, L, V]``.
        """

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw anew whatever is random in the method."""

    def where(self, query: Tensor, position: Tensor | None) -> Tensor:
        """Positions of the tokens after the prefix, checked."""
        count = query.shape[-2] - self.layout.prefix
        if position is None:
            return self.layout.positions(query.shape[-2], query.device)
        if position.shape[-2:] != (count, self.layout.dimension):
            raise ValueError(
                f"position must be [..., {count}, {self.layout.dimension}] beside query {list(query.shape)}, "
                f"got {list(position.shape)}"
            )
        return position


class PerformerMixer(Mixer):
    """Random features of the exponential kernel, without positions.

    Args:
        heads: ``H``.
        width: ``D``.
        layout: Of the tokens; positions are not used.
        causal: Whether a token sees only itself and the past.
        features: ``m``.
        kind: ``"positive"`` or ``"trigonometric"``.
        hyperbolic: Whether rows come as pairs ``w`` and ``-w``.
        orthogonal: Whether rows are orthogonal in blocks.

    Raises:
        ValueError: If a number is out of range or there is no such kind.
    """

    projection: Tensor

    def __init__(
        self,
        heads: int,
        width: int,
        layout: Layout,
        *,
        causal: bool = False,
        features: int = 64,
        kind: Kind = "positive",
        hyperbolic: bool = False,
        orthogonal: bool = True,
    ) -> None:
        super().__init__(heads, width, layout, causal=causal)
        check_counts(features=features)
        check_kind(kind)
        self.features, self.kind = features, kind
        self.hyperbolic, self.orthogonal = hyperbolic, orthogonal
        self.register_buffer("projection", torch.empty(heads, features, width))
        self.redraw()

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw the projection anew."""
        self.projection.copy_(
            gaussian_projection(
                self.features,
                self.width,
                shape=(self.heads,),
                orthogonal=self.orthogonal,
                hyperbolic=self.hyperbolic,
                generator=generator,
            )
        )

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
        if self.causal:
            return causal_performer_attention(
                query, key, value, projection=self.projection, kind=self.kind, key_mask=mask
            )[0]
        return performer_attention(
            query, key, value, projection=self.projection, kind=self.kind, key_mask=mask
        )


class FltMixer(Mixer):
    """FourierLearner attention with a learned position function.

    Args:
        heads: ``H``.
        width: ``D``.
        layout: Of the tokens.
        causal: Whether a token sees only itself and the past.
        features: ``m``.
        samples: ``r``.
        components: Of the position function.
        limit: Bound of a head's amplitude.
        isotropic: Whether the position function depends on the distance alone.
        decay: Whether, causal, it also forgets at a learned rate per token, in raster order.
        hyperbolic: Whether rows come as pairs ``w`` and ``-w``.
        orthogonal: Whether rows are orthogonal in blocks.

    Raises:
        ValueError: If a number is out of range.
    """

    projection: Tensor
    seed: Tensor

    def __init__(
        self,
        heads: int,
        width: int,
        layout: Layout,
        *,
        causal: bool = False,
        features: int = 64,
        samples: int = 16,
        components: int = 8,
        limit: float = 1.0,
        isotropic: bool = False,
        decay: bool = True,
        hyperbolic: bool = False,
        orthogonal: bool = True,
    ) -> None:
        super().__init__(heads, width, layout, causal=causal)
        check_counts(features=features, samples=samples)
        self.features, self.samples = features, samples
        self.hyperbolic, self.orthogonal = hyperbolic, orthogonal
        self.position = PositionFunction(
            heads, layout, components=components, limit=limit, isotropic=isotropic
        )
        self.decay = DecayRate(heads, layout) if decay and causal else None
        self.register_buffer("projection", torch.empty(heads, features, width + 2 * samples))
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        self.redraw()

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw the projection and the frequencies anew."""
        self.projection.copy_(
            gaussian_projection(
                self.features,
                self.width + 2 * self.samples,
                shape=(self.heads,),
                orthogonal=self.orthogonal,
                hyperbolic=self.hyperbolic,
                generator=generator,
            )
        )
        self.seed.copy_(torch.randint(2**31, (), generator=generator))

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
        drawn = self.position.sample(self.samples, int(self.seed))
        mask = None if mask is None else mask[:, None]
        query, key = flt_features(
            query,
            mask_tokens(key, mask),
            drawn,
            self.projection,
            self.where(query, position),
            prefix=self.layout.prefix,
        )
        if self.causal:
            rate = None if self.decay is None else self.decay()
            return causal_linear_attention(query, key, value, decay_rate=rate, key_mask=mask)[0]
        return linear_attention(query, key, value, key_mask=mask)
