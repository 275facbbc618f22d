"""Learned position functions: Gaussian mixtures in the frequency domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kernattn._checks import working_dtype
from kernattn.modules.layout import Layout
from kernattn.rpe import FourierSamples
from kernattn.spectra import GaussianMixture

SMALLEST_SCALE = 1e-5


class PositionFunction(nn.Module):
    """A learned ``f``: ``T`` components a head, each a bump of the lag times a cosine.

    A component's amplitude is its value at lag 0 where its phase is 0. They start small and positive, with
    widths from one unit of position to half the extent, so that near tokens are slightly favoured.

    Args:
        heads: ``H``.
        layout: Of the tokens.
        components: ``T``.
        limit: Bound of a head's total amplitude, reached by scaling all down together; the noise of positive
            features grows as ``exp(4 G)``. ``inf`` for exact attention.
        isotropic: Whether f depends on the distance alone: no cosines, no phases.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        heads: int,
        layout: Layout,
        *,
        components: int = 8,
        limit: float = 1.0,
        isotropic: bool = False,
    ) -> None:
        super().__init__()
        if heads < 1 or components < 1 or not limit > 0:
            raise ValueError(
                "heads and components must be at least 1 and limit positive, "
                f"got {heads}, {components} and {limit}"
            )
        self.limit, self.isotropic = limit, isotropic
        widest = max(layout.extent / 2, 2.0)
        width = widest ** torch.linspace(0, 1, components)
        if layout.grid is None and layout.dimension > 1:
            width = layout.extent * width / widest
        self.amplitude = nn.Parameter(torch.full((heads, components), 0.2 / components))
        self.log_scale = nn.Parameter(-(2 * math.pi * width).log().expand(heads, components).clone())
        if not isotropic:
            spread = torch.randn(heads, components, layout.dimension)
            self.mean = nn.Parameter(spread / (2 * math.pi * width)[:, None])
            self.phase = nn.Parameter(torch.zeros(heads, components))
        self.dimension = layout.dimension

    def mixture(self) -> GaussianMixture:
        """The position function at the present parameters, float32 or float64."""
        dtype = working_dtype(amplitude=self.amplitude)
        amplitude, scale = self.amplitude.to(dtype), self.log_scale.to(dtype).exp() + SMALLEST_SCALE
        if self.limit < math.inf:
            total = amplitude.abs().sum(dim=-1, keepdim=True)
            amplitude = amplitude * (self.limit / total.clamp(min=self.limit))
        weight = amplitude / (2 * math.pi * scale.square()) ** (self.dimension / 2)
        if self.isotropic:
            return GaussianMixture(weight, weight.new_zeros(*weight.shape, self.dimension), scale)
        return GaussianMixture(weight, self.mean.to(dtype), scale, self.phase.to(dtype))

    def sample(self, count: int, seed: int) -> FourierSamples:
        """Frequencies that move with the parameters, from the same draws for the same seed."""
        return self.mixture().sample(
            count, stratified=self.dimension == 1, generator=torch.Generator().manual_seed(seed)
        )


class DecayRate(nn.Module):
    """Learned forgetting of a causal head, ``exp(-rate lag)``: what a position function cannot do.

    Half-lives start evenly spread on a log scale from two tokens to the extent.

    Args:
        heads: ``H``.
        layout: Of the tokens.
    """

    def __init__(self, heads: int, layout: Layout) -> None:
        super().__init__()
        half_life = 2.0 * (max(layout.extent, 2.0) / 2.0) ** torch.linspace(0, 1, heads)
        self.log_rate = nn.Parameter((math.log(2) / half_life).log())

    def forward(self) -> Tensor:
        """Rates, ``[H]``, per token."""
        return self.log_rate.exp()
