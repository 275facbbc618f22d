"""What a rule is told of the steps to come, where its user states their number."""

from math import pi

import torch
from torch import Tensor

FEATURES = 4
USUAL_STEPS = 400.0
LEAST_TOTAL = 1.0


def progress_of(step: Tensor, total: float | Tensor) -> Tensor:
    """Share of the steps that are done before this one: 0 at the first, 1 when all are taken and ever after.

    Args:
        step: Number of this step, from 1.
        total: Steps in all; fewer than one count as one.
    """
    return ((step - 1) / _steps(total, step)).clamp(0.0, 1.0)


def progress_features(step: Tensor, total: float | Tensor) -> Tensor:
    """Smooth functions of the progress ``u`` and of the number of steps ``T``.

    Args:
        step: Number of this step for each column, from 1, ``[columns]``.
        total: Steps in all, a number or ``[columns]``.

    Returns:
        ``2 u - 1``, its square, ``sqrt(1 - u)`` and a fourth of the log of ``T / 400``, each within [-1, 1],
        ``[4, columns]``.
    """
    done = progress_of(step, total)
    length = (0.25 * (_steps(total, step) / USUAL_STEPS).log()).clamp(-1.0, 1.0)
    centred = 2 * done - 1
    left = (1 - done).clamp_min(torch.finfo(step.dtype).eps).sqrt()
    return torch.stack([centred, centred * centred, left, length.expand_as(done)])


def annealed(step: Tensor, total: float | Tensor) -> Tensor:
    """Half a cosine of the progress, from 1 at the first step to 0 when all are taken."""
    return 0.5 * (1 + torch.cos(pi * progress_of(step, total)))


def _steps(total: float | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(total, dtype=like.dtype, device=like.device).clamp_min(LEAST_TOTAL)
