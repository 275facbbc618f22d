"""Shift-invariant kernels as position functions, through Bochner's theorem."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from kernattn._checks import check_device, working_dtype
from kernattn.rpe import FourierSamples
from kernattn.spectra.draws import check_draw, normal, normal_quantile, student_quantile, uniform

Kernel = Literal["gaussian", "laplace", "matern12", "matern32", "matern52"]

_FREEDOM: dict[Kernel, int] = {"laplace": 1, "matern12": 1, "matern32": 3, "matern52": 5}


@dataclass(frozen=True, eq=False)
class ShiftInvariantKernel:
    """A position function that is a kernel, ``f(z) = weight K(z / lengthscale)`` with ``K(0) = 1``.

    With ``d = |z / lengthscale|``: gaussian ``exp(-d^2 / 2)``; laplace ``exp(-sum_j |z_j / lengthscale_j|)``;
    matern12 ``exp(-d)``; matern32 ``(1 + sqrt(3) d) exp(-sqrt(3) d)``; matern52 ``(1 + sqrt(5) d + 5 d^2 / 3)
    exp(-sqrt(5) d)``. Their spectra are densities: Gaussian, a product of Cauchys, Student's t with 1, 3 and
    5 degrees of freedom. Frequencies are drawn from them, so that ``rho = weight``.

    Attributes:
        kernel: Which K.
        weight: ``f(0)``, ``[H]``, in nats, of either sign.
        lengthscale: ``[H, l]``, positive, in units of position.

    Raises:
        ValueError: If the shapes, dtypes or devices disagree, or the kernel is unknown.

    References:
        Rasmussen and Williams, 2006, Gaussian Processes for Machine Learning, section 4.2.
    """

    kernel: Kernel
    weight: Tensor
    lengthscale: Tensor

    def __post_init__(self) -> None:
        if self.kernel not in get_args(Kernel):
            raise ValueError(f"kernel must be one of {', '.join(get_args(Kernel))}, got {self.kernel!r}")
        check_heads("weight", self.weight, "lengthscale", self.lengthscale)

    @property
    def heads(self) -> int:
        """``H``."""
        return self.lengthscale.shape[0]

    @property
    def dimension(self) -> int:
        """``l``, of positions."""
        return self.lengthscale.shape[1]

    def amplitude(self) -> Tensor:
        """``G = |weight|``, ``[H]``."""
        return self.weight.abs()

    def log_mask(self, lag: Tensor) -> Tensor:
        """Evaluate ``f`` in nats at lags ``[..., l]``, as ``[H, ...]``."""
        scaled = lag.to(self.lengthscale.dtype)[..., None, :] / self.lengthscale
        if self.kernel == "laplace":
            kernel = torch.exp(-scaled.abs().sum(dim=-1))
        elif self.kernel == "gaussian":
            kernel = torch.exp(-scaled.square().sum(dim=-1) / 2)
        else:
            freedom = _FREEDOM[self.kernel]
            distance = math.sqrt(freedom) * _length(scaled)
            series = 1 + (distance if freedom > 1 else 0) + (distance.square() / 3 if freedom > 3 else 0)
            kernel = series * torch.exp(-distance)
        return (self.weight * kernel).movedim(-1, 0)

    def spectrum(self, frequency: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate ``g`` at frequencies ``[H, r, l]``: real and imaginary parts, each ``[H, r]``."""
        real = self.weight[:, None] * torch.exp(self._log_density(frequency, self.lengthscale))
        return real, torch.zeros_like(real)

    def sample(
        self,
        count: int,
        *,
        stratified: bool = False,
        orthogonal: bool = False,
        generator: torch.Generator | None = None,
    ) -> FourierSamples:
        """Draw frequencies from the kernel's own density, so that ``rho = weight``.

        Gradients reach the length scale without bias: through the frequencies (reparametrised) if the density
        has a variance (gaussian, matern32, matern52), and through the ratio at fixed frequencies if not
        (laplace, matern12), where the reparametrised gradient would have infinite variance.

        Args:
            count: ``r``, at least 1.
            stratified: One draw in each of ``r`` slices of equal probability; one-dimensional positions only.
            orthogonal: Orthogonal frequencies in blocks of ``l``; all but laplace.
            generator: Source of randomness, on any device.

        Returns:
            The samples, in the dtype of ``lengthscale``.

        Raises:
            ValueError: If the draw does not exist, or a length scale is not positive.
        """
        reason = "the Laplace kernel's density is no function of |xi|" if self.kernel == "laplace" else ""
        check_draw(count, self.dimension, stratified=stratified, orthogonal=orthogonal, not_orthogonal=reason)
        if not bool((self.lengthscale > 0).all()):
            raise ValueError(f"lengthscale must be positive, got {self.lengthscale.tolist()}")
        shape = (self.heads, count, self.dimension)
        if stratified:
            unit = self._stratified(shape, generator)
        else:
            unit = self._independent(shape, orthogonal, generator)
        scale = 1 / (2 * math.pi * self.lengthscale[:, None, :])
        ratio = self.weight[:, None].expand(shape[:2])
        if _FREEDOM.get(self.kernel, 2) > 1:
            return _samples(unit.to(scale) * scale, ratio)
        frequency = unit.to(scale) * scale.detach()
        change = self._log_density(frequency, self.lengthscale)
        return _samples(frequency, ratio * torch.exp(change - change.detach()))

    def _independent(
        self, shape: tuple[int, int, int], orthogonal: bool, generator: torch.Generator | None
    ) -> Tensor:
        """Angular frequencies of the kernel with length scale 1."""
        draws = normal(shape, orthogonal=orthogonal, generator=generator)
        if self.kernel == "gaussian":
            return draws
        freedom = _FREEDOM[self.kernel]
        # one chi-square a frequency makes the multivariate t, one an axis the product
        columns = shape[2] if self.kernel == "laplace" else 1
        chi = normal((shape[0], shape[1] * columns, freedom), generator=generator)
        chi = chi.square().sum(dim=-1).view(shape[0], shape[1], columns)
        return draws * (freedom / chi).sqrt()

    def _stratified(self, shape: tuple[int, int, int], generator: torch.Generator | None) -> Tensor:
        probability = uniform(shape, stratified=True, generator=generator)
        if self.kernel == "gaussian":
            return normal_quantile(probability)
        return student_quantile(probability, _FREEDOM[self.kernel])

    def _log_density(self, frequency: Tensor, lengthscale: Tensor) -> Tensor:
        """Logarithm of the density of ``xi``, ``[H, r]``."""
        scale = 2 * math.pi * lengthscale[:, None, :]
        angular, jacobian = frequency * scale, scale.log().sum(dim=-1)
        if self.kernel == "laplace":
            return jacobian - torch.log(math.pi * (1 + angular.square())).sum(dim=-1)
        square, dimension = angular.square().sum(dim=-1), self.dimension
        if self.kernel == "gaussian":
            return jacobian - square / 2 - dimension / 2 * math.log(2 * math.pi)
        freedom = _FREEDOM[self.kernel]
        constant = (
            math.lgamma((freedom + dimension) / 2)
            - math.lgamma(freedom / 2)
            - dimension / 2 * math.log(freedom * math.pi)
        )
        return jacobian + constant - (freedom + dimension) / 2 * torch.log1p(square / freedom)


def check_heads(name: str, height: Tensor, width_name: str, width: Tensor) -> None:
    """Raise ValueError unless a height is ``[H]`` and a width ``[H, l]``, of one dtype and device."""
    if height.dim() != 1:
        raise ValueError(f"{name} must be [H], got shape {list(height.shape)}")
    if width.dim() != 2 or width.shape[0] != height.shape[0] or width.shape[1] < 1:
        raise ValueError(
            f"{width_name} must be [H, l] with H = {height.shape[0]} and l >= 1, got {list(width.shape)}"
        )
    working_dtype(**{name: height})
    if width.dtype != height.dtype:
        raise ValueError(f"{width_name} must be {height.dtype} like {name}, got {width.dtype}")
    check_device(**{name: height, width_name: width})


def _length(x: Tensor) -> Tensor:
    """Euclidean length of the last axis, with a gradient of 0 where it is 0."""
    square = x.square().sum(dim=-1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _samples(frequency: Tensor, ratio: Tensor) -> FourierSamples:
    return FourierSamples(frequency, ratio, torch.zeros_like(ratio))
