"""Random Maclaurin features of kernels of the inner product, and the normalisations around them.

``F(x . y) = sum_n a_n (x . y)^n`` with ``a_n >= 0`` is positive definite. A feature draws a degree ``N`` with
probability ``P(n) = 2^-(n + 1)`` and N vectors ``w`` of random signs; ``sqrt(a_N / P(N)) prod_j w_j . x`` on
both sides has F as its expected product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernattn._checks import check_heads, check_same, without_autocast, working_dtype


@dataclass(frozen=True)
class MaclaurinKernel:
    """A kernel of the inner product with non-negative Maclaurin coefficients.

    Attributes:
        function: F, of a number or tensor.
        coefficient: ``a_n`` of an integer ``n >= 0``.
        entire: Whether the series converges everywhere; else for ``|x . y| < 1``.
    """

    function: Callable[[Tensor], Tensor]
    coefficient: Callable[[int], float]
    entire: bool = False


def _root_coefficient(n: int) -> float:
    return math.comb(2 * n, n) / (4**n * (2 * n - 1)) if n else 1.0


KERNELS = {
    "exp": MaclaurinKernel(torch.exp, lambda n: 1 / math.factorial(n), entire=True),
    "inverse": MaclaurinKernel(lambda x: 1 / (1 - x), lambda n: 1.0),
    "logarithm": MaclaurinKernel(lambda x: 1 - torch.log1p(-x), lambda n: 1 / max(n, 1)),
    "hyperbolic": MaclaurinKernel(
        lambda x: torch.sinh(x) + torch.cosh(x), lambda n: 1 / math.factorial(n), entire=True
    ),
    "root": MaclaurinKernel(lambda x: 2 - torch.sqrt(1 - x), _root_coefficient),
}
"""``e^x``, ``1 / (1 - x)``, ``1 - log(1 - x)``, ``sinh x + cosh x`` (``e^x``), ``2 - sqrt(1 - x)``."""


def maclaurin_kernel(name: str, radius: float) -> MaclaurinKernel:
    """Look a kernel up and check that its estimate has a finite variance.

    The second moment of an estimate is at most ``sum_n a_n^2 2^(n + 1) 3^n radius^(4n)``; where the series
    of F converges only for ``|x . y| < 1`` that is finite for ``radius^4 < 1/6``, ``radius < 0.639``.

    Args:
        name: One of `KERNELS`.
        radius: Length of queries and keys.

    Returns:
        The kernel.

    Raises:
        ValueError: If there is no such kernel, or the radius is not positive, finite and small enough.
    """
    if name not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {name!r}")
    if not 0 < radius < math.inf:
        raise ValueError(f"radius must be positive and finite, got {radius}")
    kernel = KERNELS[name]
    if not kernel.entire and 6 * radius**4 >= 1:
        raise ValueError(
            f"radius {radius:g} is too long for kernel {name!r}: the variance of its estimate is bounded "
            "only if 6 radius^4 < 1, radius < 0.639"
        )
    return kernel


@dataclass(frozen=True, eq=False)
class MaclaurinSamples:
    """Draws of random Maclaurin features, sorted by degree.

    Attributes:
        counts: Number of features of degree 0, 1, 2, ...
        scale: ``sqrt(a_N / (P(N) m))``, ``[m]``.
        signs: The vectors of random signs, ``[..., sum_n n counts[n], E]``, degree by degree.
    """

    counts: tuple[int, ...]
    scale: Tensor
    signs: Tensor


def draw_maclaurin(
    features: int,
    width: int,
    *,
    kernel: str = "exp",
    shape: Sequence[int] = (),
    stratified: bool = True,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> MaclaurinSamples:
    """Draw degrees and signs.

    Args:
        features: ``m``, at least 1.
        width: ``E``, the width of queries and keys.
        kernel: One of `KERNELS`.
        shape: Leading axes of independent signs, for example ``(heads,)``; the degrees are common to them.
        stratified: One degree in each of ``m`` slices of equal probability: as unbiased, with less variance.
        generator: Source of randomness, on any device.
        dtype: Of the result.
        device: Of the result; the generator's by default.

    Returns:
        The samples.

    Raises:
        ValueError: If ``features`` is below 1, ``width`` negative or the kernel unknown.
    """
    if features < 1 or width < 0:
        raise ValueError(f"features must be at least 1 and width not negative, got {features} and {width}")
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    place = torch.device("cpu") if generator is None else generator.device
    uniform = torch.rand(features, generator=generator, dtype=torch.float64, device=place)
    if stratified:
        uniform = (torch.arange(features, device=place) + uniform) / features
    degree = (-torch.log2(1 - uniform)).floor().long().sort().values.tolist()
    counts = tuple(degree.count(n) for n in range(degree[-1] + 1))
    scale = [math.sqrt(KERNELS[kernel].coefficient(n) * 2 ** (n + 1) / features) for n in degree]
    bits = torch.randint(2, (*shape, sum(degree), width), generator=generator, device=place)
    target = place if device is None else torch.device(device)
    return MaclaurinSamples(
        counts, torch.tensor(scale, dtype=dtype, device=target), (2 * bits - 1).to(target, dtype)
    )


@without_autocast
def maclaurin_features(x: Tensor, samples: MaclaurinSamples) -> Tensor:
    """Random Maclaurin features, whose inner products estimate ``F(x . y)`` without bias.

    Args:
        x: ``[..., L, E]``, dimensionless.
        samples: From `draw_maclaurin`; the leading axes of its signs broadcast.

    Returns:
        ``[..., L, m]`` of either sign, float32 or float64.

    Raises:
        ValueError: If the widths disagree or a dtype is not floating point.

    References:
        Kar and Karnick, 2012, https://arxiv.org/abs/1201.6530
    """
    check_same("E", -1, x=x, signs=samples.signs)
    check_heads(x, signs=samples.signs)
    dtype = working_dtype(x=x)
    products = x.to(dtype) @ samples.signs.to(dtype).mT
    sizes = [n * count for n, count in enumerate(samples.counts)]
    parts = [products.new_ones((*products.shape[:-1], samples.counts[0]))]
    for degree, part in list(enumerate(torch.split(products, sizes, dim=-1)))[1:]:
        factors = torch.unflatten(part, -1, (degree, samples.counts[degree])).unbind(-2)
        product = factors[0]
        for factor in factors[1:]:
            product = product * factor
        parts.append(product)
    return torch.cat(parts, dim=-1) * samples.scale.to(dtype)


def centre_and_scale(x: Tensor, *, radius: float = 1.0, eps: float = 1e-6) -> Tensor:
    """PpSBN before attention: centre each token over its width and bring it to one length.

    Args:
        x: ``[..., E]``.
        radius: Length of the result, at most; a token without variation goes to 0.
        eps: Added to the squared length.

    Returns:
        Same shape, float32 or float64.
    """
    x = x.to(working_dtype(x=x))
    if not x.shape[-1]:
        return x
    centred = x - x.mean(dim=-1, keepdim=True)
    return radius * centred * (centred.square().sum(dim=-1, keepdim=True) + eps).rsqrt()


def signed_power(x: Tensor, gain: Tensor | float = 1.0, power: Tensor | float = 1.0) -> Tensor:
    """PpSBN after attention: ``gain sign(x) |x|^power``, with finite slopes at 0.

    Args:
        x: Outputs, any shape.
        gain: gamma, broadcasts against ``x``.
        power: beta, positive, broadcasts against ``x``.

    Returns:
        The same shape.
    """
    return gain * x * (x.square() + 1e-6) ** ((power - 1) / 2)
