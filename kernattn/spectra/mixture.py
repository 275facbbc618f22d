"""Spectra that are mixtures of Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernattn._checks import check_device, working_dtype
from kernattn.rpe import FourierSamples
from kernattn.spectra.draws import check_draw, normal, normal_quantile, uniform


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A spectrum that is a mixture of ``T`` Gaussians a head, and its position function.

    ``g(xi) = sum_t w_t exp(i phase_t) exp(-|xi - mu_t|^2 / (2 sigma_t^2))``;
    ``f(z) = sum_t w_t (2 pi sigma_t^2)^(l/2) exp(-2 pi^2 sigma_t^2 |z|^2) cos(2 pi mu_t . z + phase_t)``.

    Attributes:
        weight: ``w``, ``[H, T]``, of either sign.
        mean: ``mu``, ``[H, T, l]``, in turns per unit of position.
        scale: ``sigma``, ``[H, T]``, positive, in the same unit.
        phase: ``[H, T]``, in radians; -pi/2 makes a component an odd function of the lag. None is 0.

    Raises:
        ValueError: If the shapes or dtypes disagree.

    References:
        Choromanski et al., 2024, section 3, https://arxiv.org/abs/2302.01925
    """

    weight: Tensor
    mean: Tensor
    scale: Tensor
    phase: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight.dim() != 2 or self.weight.shape[1] < 1:
            raise ValueError(f"weight must be [H, T] with T >= 1, got shape {list(self.weight.shape)}")
        if self.mean.dim() != 3 or self.mean.shape[:2] != self.weight.shape:
            raise ValueError(
                f"mean must be [H, T, l] beside weight {list(self.weight.shape)}, got {list(self.mean.shape)}"
            )
        working_dtype(weight=self.weight)
        check_device(**{name: x for name, x in vars(self).items() if x is not None})
        for name, tensor in (("mean", self.mean), ("scale", self.scale), ("phase", self.phase)):
            if tensor is None:
                continue
            if name != "mean" and tensor.shape != self.weight.shape:
                raise ValueError(
                    f"{name} must be [H, T] = {list(self.weight.shape)}, got {list(tensor.shape)}"
                )
            if tensor.dtype != self.weight.dtype:
                raise ValueError(f"{name} must be {self.weight.dtype} like weight, got {tensor.dtype}")

    @property
    def heads(self) -> int:
        """``H``."""
        return self.mean.shape[0]

    @property
    def dimension(self) -> int:
        """``l``, of positions."""
        return self.mean.shape[2]

    def amplitude(self) -> Tensor:
        """``sum_t |w_t| (2 pi sigma_t^2)^(l/2)``, ``[H]``: G if no components cancel, else a bound of it."""
        return (self.weight.abs() * self._volume()).sum(dim=-1)

    def log_mask(self, lag: Tensor) -> Tensor:
        """Evaluate ``f``.

        Args:
            lag: ``z``, ``[..., l]``, in units of position.

        Returns:
            ``[H, ...]``, in nats.
        """
        lag = lag.to(self.mean.dtype)
        angle = 2 * math.pi * torch.einsum("htl,...l->...ht", self.mean, lag)
        if self.phase is not None:
            angle = angle + self.phase
        distance = lag.square().sum(dim=-1)[..., None, None]
        envelope = torch.exp(-2 * math.pi**2 * self.scale.square() * distance)
        terms = self.weight * self._volume() * envelope * angle.cos()
        return terms.sum(dim=-1).movedim(-1, 0)

    def spectrum(self, frequency: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate ``g``.

        Args:
            frequency: ``xi``, ``[H, r, l]``.

        Returns:
            Real and imaginary parts, each ``[H, r]``.
        """
        return self._mix(torch.exp(self._exponent(frequency)))

    def sample(
        self,
        count: int,
        *,
        proposal_scale: float | None = None,
        stratified: bool = False,
        orthogonal: bool = False,
        generator: torch.Generator | None = None,
    ) -> FourierSamples:
        """Draw frequencies and their importance ratios.

        By default p is the mixture itself with weights ``|w|``: the draws move with the means and scales
        (reparametrised), and ``rho`` is the constant ``|g|_1`` where no weight is negative and no phase is
        set. The gradient of the estimate is that of f, without bias.

        Args:
            count: ``r``, at least 1.
            proposal_scale: Draw from ``N(0, proposal_scale^2)`` instead, whatever the parameters are.
            stratified: One draw in each of ``r`` slices of equal probability, by the inverse distribution
                function; unbiased with far lower variance. One-dimensional positions only.
            orthogonal: Offsets from the means that are orthogonal in blocks of ``l``; unbiased.
            generator: Source of randomness, on any device.

        Returns:
            The samples, in the dtype of ``mean``.

        Raises:
            ValueError: If ``count`` is below 1, a scale is not positive, ``stratified`` meets ``l != 1``, or
                a component is too wide for the fixed proposal: with ``sigma_t^2 >= 2 proposal_scale^2`` the
                variance is infinite.
        """
        heads, _, dimension = self.mean.shape
        check_draw(count, dimension, stratified=stratified, orthogonal=orthogonal)
        if not bool((self.scale > 0).all()):
            raise ValueError(f"scale must be positive, got {self.scale.tolist()}")
        probability = uniform((heads, count), stratified=stratified, generator=generator).to(self.mean.device)
        offset = normal((heads, count, dimension), orthogonal=orthogonal, generator=generator)
        offset = offset.to(self.mean.device)
        if proposal_scale is None:
            frequency, log_density = self._sample_mixture(probability, None if stratified else offset)
        else:
            self._refuse_wide_components(proposal_scale)
            draws = normal_quantile(probability)[..., None] if stratified else offset
            frequency = proposal_scale * draws.to(self.mean.dtype)
            log_density = -draws.square().sum(dim=-1) / 2 - dimension / 2 * math.log(
                2 * math.pi * proposal_scale**2
            )
        ratio = self._mix(torch.exp(self._exponent(frequency) - log_density.to(self.mean.dtype)[..., None]))
        return FourierSamples(frequency, *ratio)

    def _sample_mixture(self, probability: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor]:
        """Frequencies and the log-density of the mixture whose proportions are constants at this value."""
        mass = (self.weight * self._volume()).detach().abs().double()
        total = mass.sum(dim=-1, keepdim=True)
        proportion = torch.where(total > 0, mass / total, 1 / mass.shape[-1])
        upper = proportion.cumsum(dim=-1)
        upper = upper / upper[..., -1:]
        component = torch.searchsorted(upper, probability, right=True).clamp(max=mass.shape[-1] - 1)
        if offset is None:
            chosen = proportion.gather(-1, component)
            offset = normal_quantile((probability - upper.gather(-1, component)) / chosen + 1)[..., None]
        index = component[..., None].expand(*component.shape, self.mean.shape[-1])
        scale = self.scale.gather(-1, component)[..., None]
        frequency = self.mean.gather(1, index) + scale * offset.to(self.mean.dtype)
        log_terms = (proportion.to(self.mean.dtype) / self._volume()).log()[:, None, :]
        return frequency, torch.logsumexp(log_terms + self._exponent(frequency), dim=-1)

    def _refuse_wide_components(self, proposal_scale: float) -> None:
        if not proposal_scale > 0:
            raise ValueError(f"proposal_scale must be positive, got {proposal_scale}")
        widest = float(self.scale.detach().max())
        if widest**2 >= 2 * proposal_scale**2:
            raise ValueError(
                f"scale {widest:g} is too wide for proposal_scale {proposal_scale:g}: "
                "the variance is finite only if scale^2 < 2 proposal_scale^2"
            )

    def _volume(self) -> Tensor:
        """Integral of one unweighted component, ``[H, T]``."""
        return (2 * math.pi * self.scale.square()) ** (self.mean.shape[-1] / 2)

    def _exponent(self, frequency: Tensor) -> Tensor:
        distance = frequency[:, :, None, :] - self.mean[:, None, :, :]
        return -distance.square().sum(dim=-1) / (2 * self.scale.square()[:, None, :])

    def _mix(self, terms: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of ``[H, r, T]`` with the complex weights."""
        if self.phase is None:
            real = torch.einsum("hrt,ht->hr", terms, self.weight)
            return real, torch.zeros_like(real)
        return (
            torch.einsum("hrt,ht->hr", terms, self.weight * self.phase.cos()),
            torch.einsum("hrt,ht->hr", terms, self.weight * self.phase.sin()),
        )
