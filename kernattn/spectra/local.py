"""Local position functions: the triangle, and the box that has no estimator until it is band-limited.

A function with a jump has a spectrum that falls as ``1 / xi``, so ``|g|_1`` is infinite, and with it the
variance of the estimate under every density p: ``integral |g|^2 / p >= (integral |g|)^2``. That refuses the
box. It also refuses gradients to the radius of the triangle, because they jump where the triangle ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kernattn.rpe import FourierSamples
from kernattn.spectra.draws import (
    cauchy_quantile,
    check_draw,
    fejer,
    fejer_quantile,
    sine_integral,
    uniform,
)
from kernattn.spectra.kernels import check_heads

Proposal = Literal["fejer", "cauchy"]


@dataclass(frozen=True, eq=False)
class LocalTriangle:
    """The continuous local position function, ``f(z) = height prod_j (1 - |z_j| / radius_j)_+``.

    That is ``C prod_j (radius_j - |z_j|)_+`` with ``C = height / prod_j radius_j``. Its spectrum is ``height
    prod_j radius_j sinc(radius_j xi_j)^2``, with ``sinc(x) = sin(pi x) / (pi x)``.

    Attributes:
        height: ``f(0)``, ``[H]``, in nats, of either sign.
        radius: ``[H, l]``, positive, in units of position; a constant.

    Raises:
        ValueError: If the shapes, dtypes or devices disagree.

    References:
        Choromanski et al., 2024, section 3, https://arxiv.org/abs/2302.01925
    """

    height: Tensor
    radius: Tensor

    def __post_init__(self) -> None:
        check_heads("height", self.height, "radius", self.radius)

    @property
    def heads(self) -> int:
        """``H``."""
        return self.radius.shape[0]

    @property
    def dimension(self) -> int:
        """``l``, of positions."""
        return self.radius.shape[1]

    def amplitude(self) -> Tensor:
        """``G = |height|``, ``[H]``."""
        return self.height.abs()

    def log_mask(self, lag: Tensor) -> Tensor:
        """Evaluate ``f`` in nats at lags ``[..., l]``, as ``[H, ...]``."""
        distance = lag.to(self.radius.dtype)[..., None, :].abs() / self.radius
        return (self.height * (1 - distance).clamp(min=0).prod(dim=-1)).movedim(-1, 0)

    def spectrum(self, frequency: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate ``g`` at frequencies ``[H, r, l]``: real and imaginary parts, each ``[H, r]``."""
        radius = self.radius[:, None, :]
        real = self.height[:, None] * (radius * torch.sinc(radius * frequency).square()).prod(dim=-1)
        return real, torch.zeros_like(real)

    def sample(
        self,
        count: int,
        *,
        proposal: Proposal = "fejer",
        stratified: bool = False,
        orthogonal: bool = False,
        generator: torch.Generator | None = None,
    ) -> FourierSamples:
        """Draw frequencies and their ratios.

        Args:
            count: ``r``, at least 1.
            proposal: ``fejer`` is the spectrum's own density, by rejection (pi/4 are accepted), with ``rho =
                height``; ``cauchy`` has bounded ratios.
            stratified: One draw in each of ``r`` slices of equal probability; one-dimensional positions only.
            orthogonal: Refused.
            generator: Source of randomness, on any device.

        Returns:
            The samples, in the dtype of ``radius``.

        Raises:
            ValueError: If the draw does not exist, a radius is not positive or asks for a gradient, or the
                proposal has lighter tails than the spectrum: the variance would be infinite.
        """
        reason = "the triangle's density is no function of |xi|"
        check_draw(count, self.dimension, stratified=stratified, orthogonal=orthogonal, not_orthogonal=reason)
        self._check(proposal)
        shape = (self.heads, count, self.dimension)
        if proposal == "cauchy":
            probability = uniform(shape, stratified=stratified, generator=generator)
            unit = cauchy_quantile(probability) / math.pi
        elif stratified:
            unit = fejer_quantile(uniform(shape, stratified=True, generator=generator))
        else:
            unit = fejer(shape, generator=generator)
        unit = unit.to(self.radius.device)
        ratio = self.height[:, None].expand(shape[:2])
        if proposal == "cauchy":
            density = 1 / (1 + (math.pi * unit).square())
            ratio = ratio * (torch.sinc(unit).square() / density).prod(dim=-1).to(ratio)
        return FourierSamples(unit.to(self.radius) / self.radius[:, None, :], ratio, torch.zeros_like(ratio))

    def _check(self, proposal: str) -> None:
        if proposal not in ("fejer", "cauchy"):
            raise ValueError(
                f"proposal must be fejer or cauchy, got {proposal!r}: the variance is finite only if "
                "integral g^2 / p is, and the spectrum falls as xi^-2 (under a Gaussian p it is not)"
            )
        if not bool((self.radius > 0).all()):
            raise ValueError(f"radius must be positive, got {self.radius.tolist()}")
        if self.radius.requires_grad:
            raise ValueError(
                "radius must be a constant: the triangle's derivative by its radius jumps, so that "
                "sampled gradients have infinite variance under every proposal; "
                "use a GaussianMixture to learn a width"
            )


@dataclass(frozen=True, eq=False)
class LocalBox:
    """The local position function with a jump, ``f(z) = height`` for ``|z_j| <= radius_j``, else 0.

    Its spectrum ``height prod_j 2 radius_j sinc(2 radius_j xi_j)`` falls as ``1 / xi``: no proposal has
    finite variance, and `sample` refuses it. With a ``band`` the spectrum is cut off at ``|xi_j| <= band``,
    and f becomes ``height prod_j (Si(2 pi band (z_j + radius_j)) - Si(2 pi band (z_j - radius_j))) / pi``,
    which rings and overshoots the edge by 9 % (Gibbs).

    Attributes:
        height: ``[H]``, in nats, of either sign.
        radius: ``[H, l]``, positive, in units of position.
        band: Largest frequency, in turns per unit of position; the box proper without.

    Raises:
        ValueError: If the shapes, dtypes or devices disagree, or the band is not positive.
    """

    height: Tensor
    radius: Tensor
    band: float | None = None

    def __post_init__(self) -> None:
        check_heads("height", self.height, "radius", self.radius)
        if self.band is not None and not 0 < self.band < math.inf:
            raise ValueError(f"band must be positive and finite, got {self.band}")

    @property
    def heads(self) -> int:
        """``H``."""
        return self.radius.shape[0]

    @property
    def dimension(self) -> int:
        """``l``, of positions."""
        return self.radius.shape[1]

    def amplitude(self) -> Tensor:
        """Bound of G, ``[H]``, that grows with ``log(radius band)`` an axis; infinite without a band."""
        if self.band is None:
            return torch.where(self.height == 0, 0.0, torch.inf).to(self.height)
        return self.height.abs() * self._mass().prod(dim=-1)

    def log_mask(self, lag: Tensor) -> Tensor:
        """Evaluate ``f`` in nats at lags ``[..., l]``, as ``[H, ...]``."""
        lag = lag.to(self.radius.dtype)[..., None, :]
        if self.band is None:
            return (self.height * (lag.abs() <= self.radius).all(dim=-1)).movedim(-1, 0)
        scale = 2 * math.pi * self.band
        inside = sine_integral(scale * (lag + self.radius)) - sine_integral(scale * (lag - self.radius))
        return (self.height * (inside / math.pi).prod(dim=-1)).movedim(-1, 0)

    def spectrum(self, frequency: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate ``g`` at frequencies ``[H, r, l]``: real and imaginary parts, each ``[H, r]``."""
        width = 2 * self.radius[:, None, :]
        real = self.height[:, None] * (width * torch.sinc(width * frequency)).prod(dim=-1)
        if self.band is not None:
            real = torch.where((frequency.abs() <= self.band).all(dim=-1), real, 0.0)
        return real, torch.zeros_like(real)

    def sample(
        self,
        count: int,
        *,
        stratified: bool = False,
        orthogonal: bool = False,
        generator: torch.Generator | None = None,
    ) -> FourierSamples:
        """Draw frequencies in the band, with ``p`` proportional to ``prod_j min(2 radius_j, 1 / |pi xi_j|)``.

        The frequencies are constants; gradients reach the radius through the ratios, which are bounded.

        Args:
            count: ``r``, at least 1.
            stratified: One draw in each of ``r`` slices of equal probability; one-dimensional positions only.
            orthogonal: Refused.
            generator: Source of randomness, on any device.

        Returns:
            The samples, in the dtype of ``radius``.

        Raises:
            ValueError: If there is no band, the draw does not exist, or a radius is not positive.
        """
        if self.band is None:
            raise ValueError(
                "the box has no estimator: its spectrum falls as 1 / xi, so that |g|_1 and the variance "
                "under every proposal are infinite; give it a band, or use LocalTriangle"
            )
        reason = "the box's density is no function of |xi|"
        check_draw(count, self.dimension, stratified=stratified, orthogonal=orthogonal, not_orthogonal=reason)
        if not bool((self.radius > 0).all()):
            raise ValueError(f"radius must be positive, got {self.radius.tolist()}")
        shape = (self.heads, count, self.dimension)
        signed = 2 * uniform(shape, stratified=stratified, generator=generator).to(self.radius.device) - 1
        radius, mass = self.radius.detach().double()[:, None, :], self._mass().detach().double()[:, None, :]
        knee = 1 / (2 * math.pi * radius)  # where the density begins to fall
        quantile = signed.abs() * mass / 2
        body = quantile / (2 * radius)
        tail = knee * torch.exp((math.pi * quantile - 1).clamp(min=0))
        frequency = (signed.sign() * torch.where(body <= knee, body, tail)).clamp(-self.band, self.band)
        density = torch.minimum(2 * radius, 1 / (math.pi * frequency.abs())) / mass
        frequency = frequency.to(self.radius.dtype)
        real, imag = self.spectrum(frequency)
        return FourierSamples(frequency, real / density.prod(dim=-1).to(real), imag)

    def _mass(self) -> Tensor:
        """Integral of ``min(2 radius, 1 / (pi |xi|))`` over the band, ``[H, l]``."""
        assert self.band is not None
        reach = 2 * math.pi * self.radius * self.band
        return 2 / math.pi * torch.where(reach <= 1, reach, 1 + torch.log(reach.clamp(min=1)))
