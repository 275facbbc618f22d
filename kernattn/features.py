"""Random features of the exponential kernel: positive (FAVOR+), hyperbolic and trigonometric."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kernattn._checks import check_device, check_same, without_autocast, working_dtype

_LARGEST = 40.0
"""Exponent at which two factors still multiply to a finite float32."""


def gaussian_projection(
    features: int,
    width: int,
    *,
    shape: Sequence[int] = (),
    orthogonal: bool = True,
    hyperbolic: bool = False,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw the rows ``w ~ N(0, I)`` of the random features.

    Orthogonal rows come in blocks of ``width``: the orthogonal factor of a Gaussian matrix, made Haar
    distributed by the signs of the diagonal of R (without them the kernel estimate is biased), times
    independent chi row norms, so that every row by itself is still Gaussian. Hyperbolic features are the
    positive features of the rows ``w`` and ``-w``.

    Args:
        features: ``m``, the number of rows; even if hyperbolic.
        width: ``E``, the width of what is projected.
        shape: Leading axes of independent draws, for example ``(heads,)``.
        orthogonal: Orthogonal within a block, instead of independent.
        hyperbolic: Whether the second half of the rows is minus the first.
        generator: Source of randomness, on any device.
        dtype: Of the result; the draws are made in float64.
        device: Of the result; the generator's by default.

    Returns:
        ``[*shape, features, width]``.

    Raises:
        ValueError: If ``features`` or ``width`` is negative, or ``features`` odd and hyperbolic.

    References:
        Choromanski et al., 2021, section 2.4, https://arxiv.org/abs/2009.14794
    """
    if features < 0 or width < 0:
        raise ValueError(f"features and width must not be negative, got {features} and {width}")
    if hyperbolic:
        if features % 2:
            raise ValueError(f"hyperbolic features come in pairs: features must be even, got {features}")
        features //= 2
    draw_device = torch.device("cpu") if generator is None else generator.device

    def normal(rows: int) -> Tensor:
        return torch.randn(*shape, rows, width, generator=generator, dtype=torch.float64, device=draw_device)

    if orthogonal and width > 0:
        blocks = [_haar(normal(width)) for _ in range(0, features, width)]
        directions = torch.cat([normal(0), *blocks], dim=-2)[..., :features, :]
        rows = directions * normal(features).square().sum(dim=-1, keepdim=True).sqrt()
    else:
        rows = normal(features)
    if hyperbolic:
        rows = torch.cat([rows, -rows], dim=-2)
    return rows.to(device=draw_device if device is None else device, dtype=dtype)


def _haar(gaussian: Tensor) -> Tensor:
    """Orthogonal factor of Gaussian matrices, with the signs that make it Haar distributed."""
    factor, triangular = torch.linalg.qr(gaussian)
    negative = triangular.diagonal(dim1=-2, dim2=-1) < 0
    return torch.where(negative[..., None, :], -factor, factor)


@without_autocast
def positive_features(
    x: Tensor, projection: Tensor, *, offset: Tensor | None = None, rescale: bool = False
) -> Tensor:
    """Positive features of the exponential kernel: ``m^-1/2 exp(W x - |x|^2 / 2)``.

    Their inner product estimates ``exp(x . y)`` without bias. A query's features may be rescaled by any
    factor of its own, which cancels in normalised attention; a key's may not, and a common factor would
    couple tokens.

    Where x is made of two parts, ``W x - |x|^2 / 2`` is the sum of the same of both parts, and the offset is
    the place for a part that many x share.

    Args:
        x: ``[..., L, E]``, dimensionless.
        projection: From `gaussian_projection`, ``[..., m, E]``; leading axes broadcast.
        offset: Added to the exponent, broadcasts to ``[..., L, m]``.
        rescale: Divide each token's features by their largest, which keeps long queries from underflowing.

    Returns:
        ``[..., L, m]``, float32 or float64.

    Raises:
        ValueError: If the widths disagree or a dtype is not floating point.

    References:
        Choromanski et al., 2021, lemma 1, https://arxiv.org/abs/2009.14794
    """
    check_same("E", -1, x=x, projection=projection)
    check_device(x=x, projection=projection)
    dtype = working_dtype(x=x)
    x, projection = x.to(dtype), projection.to(dtype)
    exponent = x @ projection.mT
    if offset is not None:
        exponent = exponent + offset.to(dtype)
    if rescale and exponent.shape[-1] > 0:
        return torch.exp(exponent - exponent.amax(dim=-1, keepdim=True).detach())
    root = math.log(max(exponent.shape[-1], 1)) / 2
    return torch.exp(exponent - (x.square().sum(dim=-1, keepdim=True) / 2 + root))


@without_autocast
def trigonometric_features(x: Tensor, projection: Tensor, *, log_scale: Tensor | None = None) -> Tensor:
    """Trigonometric features of the exponential kernel: ``m^-1/2 exp(|x|^2 / 2) [sin W x, cos W x]``.

    Their inner product estimates ``exp(x . y)`` without bias and with less variance than positive features
    where the kernel is large, but it can be negative.

    Args:
        x: ``[..., L, E]``, dimensionless.
        projection: From `gaussian_projection`, ``[..., m, E]``; leading axes broadcast.
        log_scale: Subtracted from ``|x|^2 / 2``, broadcasts to ``[..., L, 1]``. Without it the exponent is
            held at 40 at most, where float32 would overflow soon.

    Returns:
        ``[..., L, 2m]``, float32 or float64.

    Raises:
        ValueError: If the widths disagree or a dtype is not floating point.

    References:
        Choromanski et al., 2021, section 2.3, https://arxiv.org/abs/2009.14794
    """
    check_same("E", -1, x=x, projection=projection)
    check_device(x=x, projection=projection)
    dtype = working_dtype(x=x)
    x, projection = x.to(dtype), projection.to(dtype)
    angle = x @ projection.mT
    exponent = x.square().sum(dim=-1, keepdim=True) / 2
    exponent = exponent.clamp(max=_LARGEST) if log_scale is None else exponent - log_scale.to(dtype)
    amplitude = torch.exp(exponent) / math.sqrt(max(angle.shape[-1], 1))
    return torch.cat([angle.sin(), angle.cos()], dim=-1) * amplitude
