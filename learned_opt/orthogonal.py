"""The nearest orthogonal matrix, nearly, by a few matrix products."""

from collections.abc import Mapping, Sequence
from math import inf, prod, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

Polynomial = tuple[float, float, float]
"""What multiplies the first, third and fifth power of a singular value."""
POLYNOMIALS: Mapping[int, tuple[Polynomial, ...]] = {
    3: ((7.9883, -23.2063, 17.1169), (3.5093, -2.6294, 0.5260), (2.4945, -1.8380, 0.4372)),
    5: ((3.4445, -4.7750, 2.0315),) * 5,
}
"""By the number of iterations, those that take singular values in (0, 1] towards 1, fast rather than exactly.
Five are Muon's. Of three each is the odd one nearest to 1 on the interval that the one before leaves (Amsel
et al.): the first begins at [0.01265, 1], the last ends at [0.8, 1.2]."""
MUONS = 5
"""Iterations of Muon, and of rules that do not say."""
MAX_EXPONENT = 2.0
USUAL_FAN_IN = 64.0
LEAST_SIDE = 192
"""Rows and columns of the smallest matrix whose products are taken in bfloat16, or within its own memory."""
CAPABILITIES = torch.cpu.get_capabilities()
"""Of this machine's CPU."""
UNITS = ("amx_bf16", "avx512_bf16")
"""Capabilities with which a CPU multiplies matrices of bfloat16 faster than of float32."""


def orthogonalize(direction: Tensor, *, iterations: int = MUONS) -> Tensor:
    """Bring the singular values of a direction near one another and keep its root mean square.

    The size is kept so that a learning rate means what it meant before. Singular values of at least about
    0.005 of the Frobenius norm end within a factor 1.7 of each other; after 3 iterations those of at least
    0.013 within 1.5. Where the device multiplies matrices of bfloat16 faster, large ones of float32 are
    iterated in that, which changes the result by 1 %.

    Args:
        direction: A matrix, or more axes, of which the first counts as rows and the rest as columns.
        iterations: How many of Newton and Schulz, one of `POLYNOMIALS`.

    Returns:
        Same shape and dtype; a vector or scalar is returned as it is.

    References:
        Jordan et al., Muon, 2024, https://kellerjordan.github.io/posts/muon/;
        Amsel, Persson, Musco and Gower, The Polar Express, 2025, https://arxiv.org/abs/2505.16932
    """
    if direction.ndim < 2 or direction.numel() == 0:
        return direction
    matrix = direction.reshape(len(direction), -1)
    return iterated(matrix, POLYNOMIALS[iterations]).reshape(direction.shape)


def iterated(matrices: Tensor, polynomials: Sequence[Polynomial], norm: Tensor | None = None) -> Tensor:
    """As `orthogonalize`, for a matrix or a stack of matrices.

    Args:
        matrices: ``[..., r, c]``, with at most one axis more.
        polynomials: One for each iteration.
        norm: Frobenius norms of the result, as of `norms`; by default those of the matrices.

    Returns:
        Same shape and dtype.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    peak, tiny = largest(matrices), torch.finfo(matrices.dtype).tiny
    scaled = (matrices.mT if tall else matrices) / peak
    own = norms(scaled)
    result = (scaled / own.clamp_min(tiny)).to(dtype_of_products(matrices))
    for a, b, c in polynomials:
        gram = result @ result.mT
        power = multiply_add(gram, gram, gram, beta=b, alpha=c)
        result = multiply_add(result, power, result, beta=a)
    result = result.to(matrices.dtype)
    size = (own * peak if norm is None else norm) / norms(result).clamp_min(tiny)
    return (result.mT if tall else result) * size


def norms(matrices: Tensor) -> Tensor:
    """Frobenius norms, ``[..., 1, 1]`` of ``[..., r, c]``."""
    found: Tensor = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    return found


def largest(matrices: Tensor) -> Tensor:
    """What directions are divided by, as `norms`, so that squares neither vanish nor overflow."""
    peak: Tensor = torch.linalg.vector_norm(matrices.detach(), inf, dim=(-2, -1), keepdim=True)
    return peak.clamp_min(torch.finfo(matrices.dtype).tiny)


def multiply_add(summand: Tensor, left: Tensor, right: Tensor, **options: Any) -> Tensor:
    """`torch.addmm` for matrices, `torch.baddbmm` for stacks of them."""
    function = torch.addmm if left.ndim == 2 else torch.baddbmm
    return function(summand, left, right, **options)


def tempered(direction: Tensor, second: Tensor, exponent: Tensor) -> Tensor:
    """Weigh a direction by a power of the root second moment, which counts as 1 where it is largest.

    With exponent 0 it stays in Adam's units, where every element counts alike however small its gradients;
    with 1 it is in the gradient's, as the momentum that Muon makes orthogonal.

    Args:
        direction: Of any shape.
        second: The second moment of each element, likewise.
        exponent: ``[1]``; it counts as at least 0 and at most `MAX_EXPONENT`.
    """
    tiny, second = torch.finfo(direction.dtype).tiny, second.to(direction.dtype)
    return direction * weights(second, second.amax().clamp_min(tiny), exponent)


def power_of_second(exponent: Tensor) -> Tensor:
    """The power of the second moment, at most `MAX_EXPONENT` of its root, that an exponent stands for."""
    return 0.5 * exponent.clamp(0.0, MAX_EXPONENT)


def weights(second: Tensor, most: Tensor, exponent: Tensor) -> Tensor:
    """What `tempered` multiplies elements with, given the largest second moment of all."""
    power = power_of_second(exponent.to(second.dtype))
    return (second / most).clamp_min(torch.finfo(second.dtype).tiny) ** power


def spectral_size(shape: Sequence[int]) -> float:
    """By what the size of an orthogonal direction falls with the width, so that one learning rate suits all.

    The root of 64 over the fan-in where that is more than 64: a step then changes what a layer gives by as
    much at any width. Narrower ones keep their size, else a filter of few elements would move by many times
    the learning rate.

    References:
        Yang, Simon and Bernstein, A spectral condition for feature learning, 2023, section 3,
        https://arxiv.org/abs/2310.17813
    """
    return 1.0 if shape[0] == 1 else sqrt(USUAL_FAN_IN / max(prod(shape[1:]), USUAL_FAN_IN))


class Shaping(NamedTuple):
    """How the directions of matrices are made orthogonal.

    Attributes:
        exponent: Of `tempered`; None to leave directions in Adam's units.
        spectral: Whether their sizes fall with the width as `spectral_size`.
        iterations: As of `orthogonalize`.
    """

    exponent: Tensor | None = None
    spectral: bool = False
    iterations: int = MUONS

    def __call__(self, direction: Tensor, second: Tensor) -> Tensor:
        """Shape a direction, given the second moment of each element; a vector or scalar is left as it is."""
        if direction.ndim < 2 or direction.numel() == 0:
            return direction
        matrix = direction.reshape(len(direction), -1)
        norm = self.norm(matrix)
        if self.exponent is not None:
            matrix = tempered(matrix, second.reshape(matrix.shape), self.exponent)
        return iterated(matrix, POLYNOMIALS[self.iterations], norm).reshape(direction.shape)

    def norm(self, matrices: Tensor) -> Tensor:
        """Frobenius norms of what directions become, as `norms` of them as matrices."""
        return norms(matrices) * (spectral_size(matrices.shape[-2:]) if self.spectral else 1.0)


def dtype_of_products(matrices: Tensor) -> torch.dtype:
    """In which products of matrices, ``[..., r, c]``, are taken."""
    if matrices.dtype is not torch.float32 or min(matrices.shape[-2:]) < LEAST_SIDE:
        return matrices.dtype
    return torch.bfloat16 if _multiplies_bfloat16(matrices.device) else matrices.dtype


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has units for that."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and any(CAPABILITIES.get(unit, False) for unit in UNITS)
