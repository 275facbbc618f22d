"""The nearest orthogonal matrix, nearly, by a few matrix products."""

from collections.abc import Mapping, Sequence
from math import inf, prod, sqrt
from typing import NamedTuple

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


def orthogonalize(direction: Tensor, *, iterations: int = MUONS, norm: Tensor | None = None) -> Tensor:
    """Bring the singular values of a direction near one another and keep its root mean square.

    The size is kept so that a learning rate means what it meant before. Singular values of at least about
    0.005 of the Frobenius norm end within a factor 1.7 of each other; after 3 iterations those of at least
    0.013 within 1.5. Where the device multiplies matrices of bfloat16 faster, large ones of float32 are
    iterated in that, which changes the result by 1 %.

    Args:
        direction: A matrix, or more axes, of which the first counts as rows and the rest as columns.
        iterations: How many of Newton and Schulz, one of `POLYNOMIALS`.
        norm: Frobenius norm of the result, without axes; by default that of the direction.

    Returns:
        Same shape and dtype; a vector or scalar is returned as it is.

    References:
        Jordan et al., Muon, 2024, https://kellerjordan.github.io/posts/muon/;
        Amsel, Persson, Musco and Gower, The Polar Express, 2025, https://arxiv.org/abs/2505.16932
    """
    if direction.ndim < 2 or direction.numel() == 0:
        return direction
    matrix = direction.reshape(len(direction), -1)
    tall = matrix.shape[0] > matrix.shape[1]
    peak = largest(matrix)
    scaled = (matrix.mT if tall else matrix) / peak
    own, tiny = scaled.norm(), torch.finfo(direction.dtype).tiny
    result = (scaled / own.clamp_min(tiny)).to(dtype_of_products(matrix))
    for a, b, c in POLYNOMIALS[iterations]:
        gram = result @ result.mT
        power = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        result = torch.addmm(result, power, result, beta=a)
    result = result.to(matrix.dtype)
    size = (own * peak if norm is None else norm) / result.norm().clamp_min(tiny)
    return torch.reshape((result.mT if tall else result) * size, direction.shape)


def largest(direction: Tensor) -> Tensor:
    """What a direction is divided by, so that squares of its elements neither vanish nor overflow."""
    peak: Tensor = torch.linalg.vector_norm(direction.detach(), inf)
    return peak.clamp_min(torch.finfo(direction.dtype).tiny)


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
        norm = self.norm(direction)
        if self.exponent is not None:
            direction = tempered(direction, second, self.exponent)
        return orthogonalize(direction, iterations=self.iterations, norm=norm)

    def norm(self, direction: Tensor) -> Tensor:
        """Frobenius norm of what a direction becomes, without axes."""
        norm: Tensor = direction.norm()
        return norm * (spectral_size(direction.shape) if self.spectral else 1.0)


def dtype_of_products(matrix: Tensor) -> torch.dtype:
    """In which its products are taken."""
    if matrix.dtype is not torch.float32 or min(matrix.shape) < LEAST_SIDE:
        return matrix.dtype
    return torch.bfloat16 if _multiplies_bfloat16(matrix.device) else matrix.dtype


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has units for that."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and any(CAPABILITIES.get(unit, False) for unit in UNITS)
