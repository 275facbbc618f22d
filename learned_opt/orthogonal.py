"""The nearest orthogonal matrix, nearly, by a few matrix products."""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial that takes singular values in (0, 1] towards 1, fast rather than exactly."""


def orthogonalize(direction: Tensor, *, steps: int = 5) -> Tensor:
    """Bring the singular values of a direction near one another and keep its root mean square.

    The size is kept so that a learning rate means what it meant before. Singular values of at least about
    0.005 of the Frobenius norm end within a factor 1.7 of each other.

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
    result = (matrix.mT if tall else matrix) / norm
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = result @ result.mT
        result = a * result + (b * gram + c * gram @ gram) @ result
    size = norm / result.norm().clamp_min(torch.finfo(matrix.dtype).tiny)
    return torch.reshape((result.mT if tall else result) * size, direction.shape)
