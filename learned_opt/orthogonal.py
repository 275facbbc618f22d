"""The nearest orthogonal matrix, nearly, by a few matrix products."""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial that takes singular values in (0, 1] towards 1, fast rather than exactly."""
LEAST_SIDE = 192
"""Rows and columns of the smallest matrix whose products are taken in bfloat16."""
CAPABILITIES = torch.cpu.get_capabilities()
"""Of this machine's CPU."""


def orthogonalize(direction: Tensor, *, steps: int = 5) -> Tensor:
    """Bring the singular values of a direction near one another and keep its root mean square.

    The size is kept so that a learning rate means what it meant before. Singular values of at least about
    0.005 of the Frobenius norm end within a factor 1.7 of each other. Where the device multiplies matrices of
    bfloat16 faster, large ones of float32 are iterated in that, which changes the result by 1 %.

    Args:
        direction: A matrix, or more axes, of which the first counts as rows and the rest as columns.
        steps: Newton-Schulz iterations.

    Returns:
        Same shape and dtype; a vector or scalar is returned as it is.

    References:
        Jordan et al., Muon, 2024, https://kellerjordan.github.io/posts/muon/
    """
    if direction.ndim < 2 or direction.numel() == 0:
        return direction
    matrix = direction.reshape(len(direction), -1)
    tall = matrix.shape[0] > matrix.shape[1]
    norm = matrix.norm().clamp_min(torch.finfo(matrix.dtype).tiny)
    result = ((matrix.mT if tall else matrix) / norm).to(_dtype_of_products(matrix))
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = result @ result.mT
        power = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        result = torch.addmm(result, power, result, beta=a)
    result = result.to(matrix.dtype)
    size = norm / result.norm().clamp_min(torch.finfo(matrix.dtype).tiny)
    return torch.reshape((result.mT if tall else result) * size, direction.shape)


def _dtype_of_products(matrix: Tensor) -> torch.dtype:
    if matrix.dtype is not torch.float32 or min(matrix.shape) < LEAST_SIDE:
        return matrix.dtype
    return torch.bfloat16 if _multiplies_bfloat16(matrix.device) else matrix.dtype


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has units for that."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and bool(CAPABILITIES.get("amx_bf16", False))
