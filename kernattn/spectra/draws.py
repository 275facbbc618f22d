"""Draws that the spectra share: uniform, normal, Student's t and Fejer variates, in float64.

Independent draws come from a generator; stratified ones, one in each of ``r`` slices of equal probability,
through the quantile functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernattn.features import gaussian_projection

_BISECTIONS = 53


def check_draw(
    count: int,
    dimension: int,
    *,
    stratified: bool,
    orthogonal: bool,
    not_orthogonal: str = "",
) -> None:
    """Refuse what cannot be drawn.

    Args:
        count: ``r``.
        dimension: ``l``.
        stratified: Whether slices of equal probability are asked for.
        orthogonal: Whether orthogonal frequencies are.
        not_orthogonal: Why this density has none, or empty.

    Raises:
        ValueError: If ``count`` is below 1, both are asked for, or the density does not have them.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if stratified and orthogonal:
        raise ValueError("samples are stratified or orthogonal, not both")
    if stratified and dimension != 1:
        raise ValueError(f"stratified samples need one-dimensional positions, got l = {dimension}")
    if orthogonal and not_orthogonal:
        raise ValueError(f"no orthogonal samples: {not_orthogonal}")


def uniform(
    shape: tuple[int, ...], *, stratified: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Uniform variates in [0, 1), with one in each slice of equal width along axis 1 if stratified."""
    device = None if generator is None else generator.device
    draws = torch.rand(*shape, generator=generator, dtype=torch.float64, device=device)
    if stratified:
        slices = torch.arange(shape[1], device=device).view(-1, *[1] * (len(shape) - 2))
        draws = (slices + draws) / shape[1]
    return draws


def normal(
    shape: tuple[int, int, int], *, orthogonal: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Standard normal ``[H, r, l]``; if orthogonal, orthogonal in blocks of ``l`` frequencies."""
    heads, count, dimension = shape
    return gaussian_projection(
        count,
        dimension,
        shape=(heads,),
        orthogonal=orthogonal,
        generator=generator,
        dtype=torch.float64,
    )


def inner(probability: Tensor) -> Tensor:
    """Keep probabilities off 0 and 1, so that quantiles are finite."""
    edge = torch.finfo(probability.dtype).eps
    return probability.clamp(edge, 1 - edge)


def normal_quantile(probability: Tensor) -> Tensor:
    """Standard normal quantile, finite at 0 and 1."""
    quantile: Tensor = torch.special.ndtri(inner(probability))
    return quantile


def cauchy_quantile(probability: Tensor) -> Tensor:
    """Standard Cauchy quantile, finite at 0 and 1."""
    return torch.tan(math.pi * (inner(probability) - 0.5))


def student_quantile(probability: Tensor, freedom: int) -> Tensor:
    """Quantile of Student's t with 1, 3 or 5 degrees of freedom, by bisection beyond the first."""
    if freedom == 1:
        return cauchy_quantile(probability)

    def distribution(x: Tensor) -> Tensor:
        angle = torch.atan(x / math.sqrt(freedom))
        cosine = angle.cos()
        series = cosine if freedom == 3 else cosine + 2 / 3 * cosine**3
        return 0.5 + (angle + angle.sin() * series) / math.pi

    return _bisect(distribution, probability)


def fejer(shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
    """Draw from the density ``sinc(x)^2 = sin(pi x)^2 / (pi x)^2``, by rejection.

    The envelope ``min(1, 1 / (pi x)^2)`` accepts pi/4 of its draws.
    """
    result = uniform(shape, generator=generator)
    missing = torch.ones_like(result, dtype=torch.bool)
    while bool(missing.any()):
        proposal, accepted = fejer_proposals(shape, generator=generator)
        result = torch.where(missing & accepted, proposal, result)
        missing &= ~accepted
    return result


def fejer_proposals(
    shape: tuple[int, ...], *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draws of the envelope of the Fejer density, and which of them it accepts."""
    side, radius, height = uniform((3, *shape), generator=generator)
    signed = 2 * side - 1  # its sign is the draw's; its magnitude says body or tail, equally likely
    reach = torch.where(signed.abs() < 0.5, radius, 1 / radius.clamp(min=torch.finfo(radius.dtype).tiny))
    proposal = signed.sign() * reach / math.pi
    envelope = torch.clamp(1 / (math.pi * proposal).square(), max=1.0)
    return proposal, height * envelope < torch.sinc(proposal).square()


def fejer_quantile(probability: Tensor) -> Tensor:
    """Quantile of the Fejer density, by bisection of its distribution function."""

    def distribution(x: Tensor) -> Tensor:
        angle = 2 * math.pi * x.abs()
        one_sided = sine_integral(angle) / math.pi - x.abs() * torch.sinc(x).square()
        return 0.5 + x.sign() * one_sided

    return _bisect(distribution, probability)


def _bisect(distribution: Callable[[Tensor], Tensor], probability: Tensor) -> Tensor:
    """Quantiles of a distribution of the line, bisected in ``2 atan(x) / pi``."""
    probability = inner(probability)
    low, high = torch.full_like(probability, -1.0), torch.ones_like(probability)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = distribution(torch.tan(math.pi / 2 * middle)) < probability
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.tan(math.pi / 2 * (low + high) / 2)


def sine_integral(x: Tensor) -> Tensor:
    """``Si(x) = integral of sin(t) / t from 0 to x``, within 1e-14, differentiable.

    A power series near 0, and beyond ``pi/2 + Im E_1(i x)`` by its continued fraction.

    References:
        DLMF, 6.6.5 and 6.9.1, https://dlmf.nist.gov/6
    """
    value: Tensor = _SineIntegral.apply(x)
    return value


class _SineIntegral(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        size = x.detach().double().abs()
        near = size.clamp(max=6.0)
        term = total = near
        for k in range(1, 22):
            term = -term * near.square() / ((2 * k) * (2 * k + 1))
            total = total + term / (2 * k + 1)
        z = torch.complex(torch.zeros_like(size), size.clamp(min=6.0))
        fraction = z + 61.0
        for k in range(30, 0, -1):
            fraction = z + (2 * k - 1) - k**2 / fraction
        far = math.pi / 2 + (torch.exp(-z) / fraction).imag
        return (x.sign() * torch.where(size < 6, total, far)).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = gradient * torch.sinc(x / math.pi)
        return result
