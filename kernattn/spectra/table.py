"""The regular position function: a table of values at integer lags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernattn._checks import working_dtype
from kernattn.rpe import FourierSamples, phase
from kernattn.spectra.draws import check_draw, uniform


@dataclass(frozen=True, eq=False)
class PositionTable:
    """A position function given at integer lags, 0 outside its table.

    ``f(z) = sum_delta b_delta prod_j sinc(z_j - delta_j)``, which is ``b_z`` at integers. Its spectrum is
    ``g(xi) = sum_delta b_delta exp(-2 pi i xi . delta)`` on ``[-1/2, 1/2]^l`` and nothing beyond. Tables may
    be of either sign, even or not.

    Attributes:
        bias: ``b``, ``[H, 2 K_1 + 1, ..., 2 K_l + 1]``, in nats; lag 0 is in the middle of every axis, and a
            positive lag is a query after its key.

    Raises:
        ValueError: If an axis of lags is missing or even.

    References:
        Choromanski et al., 2024, section 3, https://arxiv.org/abs/2302.01925
    """

    bias: Tensor

    def __post_init__(self) -> None:
        working_dtype(bias=self.bias)
        if self.bias.dim() < 2 or any(size % 2 == 0 for size in self.bias.shape[1:]):
            raise ValueError(
                "bias must be [H, 2 K_1 + 1, ..., 2 K_l + 1], every axis of lags odd, "
                f"got shape {list(self.bias.shape)}"
            )

    @property
    def heads(self) -> int:
        """``H``."""
        return self.bias.shape[0]

    @property
    def dimension(self) -> int:
        """``l``, of positions."""
        return self.bias.dim() - 1

    @property
    def reach(self) -> tuple[int, ...]:
        """``K_1, ..., K_l``: the longest lags of the table."""
        return tuple(size // 2 for size in self.bias.shape[1:])

    def amplitude(self) -> Tensor:
        """``|g|_1 = integral |g|`` by quadrature, ``[H]``; at most the root of the sum of squares of b."""
        axes = tuple(range(1, self.bias.dim()))
        finer = [4 * size for size in self.bias.shape[1:]]
        spectrum: Tensor = torch.fft.fftn(self.bias, s=finer, dim=axes)
        return spectrum.abs().mean(dim=axes)

    def log_mask(self, lag: Tensor) -> Tensor:
        """Evaluate ``f`` in nats at lags ``[..., l]``, as ``[H, ...]``."""
        if lag.shape[-1] != self.dimension:
            raise ValueError(f"lag must be [..., l] with l = {self.dimension}, got {list(lag.shape)}")
        if not lag.is_floating_point():
            index = [lag[..., axis] + reach for axis, reach in enumerate(self.reach)]
            inside = torch.stack(
                [(k >= 0) & (k < n) for k, n in zip(index, self.bias.shape[1:], strict=True)]
            ).all(dim=0)
            place = torch.zeros_like(index[0])
            for k, n in zip(index, self.bias.shape[1:], strict=True):
                place = place * n + k.clamp(0, n - 1)
            return torch.where(inside, self.bias.flatten(1)[:, place], 0.0)
        values = self.bias.flatten(1)
        weights = lag.new_ones(*lag.shape[:-1], 1, dtype=self.bias.dtype)
        for axis, reach in enumerate(self.reach):
            grid = torch.arange(-reach, reach + 1, device=lag.device)
            near = torch.sinc(lag.to(self.bias.dtype)[..., axis, None] - grid)
            weights = (weights[..., :, None] * near[..., None, :]).flatten(-2)
        return (weights @ values.mT).movedim(-1, 0)

    def spectrum(self, frequency: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate ``g`` at frequencies ``[H, r, l]``: real and imaginary parts, each ``[H, r]``."""
        axes = [torch.arange(-reach, reach + 1, device=frequency.device) for reach in self.reach]
        lags = torch.cartesian_prod(*axes).view(-1, self.dimension)
        angle = 2 * math.pi * phase(frequency, lags).to(self.bias.dtype)
        values = self.bias.flatten(1)
        inside = (frequency.abs() <= 0.5).all(dim=-1)
        real = torch.einsum("hnr,hn->hr", angle.cos(), values)
        imag = torch.einsum("hnr,hn->hr", angle.sin(), -values)
        return torch.where(inside, real, 0.0), torch.where(inside, imag, 0.0)

    def sample(
        self,
        count: int,
        *,
        stratified: bool = False,
        orthogonal: bool = False,
        generator: torch.Generator | None = None,
    ) -> FourierSamples:
        """Draw frequencies uniformly in ``[-1/2, 1/2]^l``; `exact_samples` has no noise at all.

        Args:
            count: ``r``, at least 1.
            stratified: One draw in each of ``r`` slices; one-dimensional positions only.
            orthogonal: Refused.
            generator: Source of randomness, on any device.

        Returns:
            The samples, in the dtype of ``bias``, whose ratios are linear in the table.

        Raises:
            ValueError: If the draw does not exist.
        """
        reason = "a cube of frequencies has no rotations"
        check_draw(count, self.dimension, stratified=stratified, orthogonal=orthogonal, not_orthogonal=reason)
        shape = (self.heads, count, self.dimension)
        frequency = uniform(shape, stratified=stratified, generator=generator).to(self.bias) - 0.5
        return FourierSamples(frequency, *self.spectrum(frequency))

    def exact_samples(self, length: Sequence[int]) -> FourierSamples:
        """Frequencies on a grid, whose estimate is f itself at integer lags.

        A grid of ``P_j = length_j + K_j`` points an axis is exact for lags up to ``length_j - 1``; half of it
        does, since f is real.

        Args:
            length: Tokens along each of the ``l`` axes, each at least 1.

        Returns:
            About ``P_1 ... P_l / 2`` samples a head.

        Raises:
            ValueError: If the number of axes is not ``l`` or a length is below 1.
        """
        if len(length) != self.dimension or any(size < 1 for size in length):
            raise ValueError(f"length must be l = {self.dimension} numbers of at least 1, got {list(length)}")
        points = [size + reach for size, reach in zip(length, self.reach, strict=True)]
        axes = [torch.arange(p, device=self.bias.device, dtype=torch.float64) / p for p in points[:-1]]
        last, half = points[-1], points[-1] // 2 + 1
        axes.append(torch.arange(half, device=self.bias.device, dtype=torch.float64) / last)
        grid = torch.cartesian_prod(*axes).view(-1, self.dimension)
        grid = grid - (grid > 0.5).double()
        alone = (grid[:, -1] == 0) | (grid[:, -1] == 0.5)
        share = (2 - alone.double()) * len(grid) / math.prod(points)
        frequency = grid.to(self.bias.dtype).expand(self.heads, *grid.shape)
        real, imag = self.spectrum(frequency)
        return FourierSamples(frequency, real * share.to(real), imag * share.to(imag))
