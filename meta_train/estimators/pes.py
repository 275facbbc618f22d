"""Persistent evolution strategies: an unbiased meta-gradient from truncated unrolls."""

import torch
from torch import Tensor


def draw(pairs: int, size: int, *, sigma: float, generator: torch.Generator) -> Tensor:
    """Draw fresh perturbations, ``[P, M]``, from ``N(0, sigma^2)``, for the positive member of every pair."""
    return sigma * torch.randn(pairs, size, generator=generator)


def accumulate(carried: Tensor, noise: Tensor, fresh: Tensor) -> Tensor:
    """Sum each pair's perturbations since its episode began.

    Args:
        carried: Sums before this truncation, ``[P, M]``.
        noise: This truncation's perturbations, ``[P, M]``.
        fresh: True where an episode begins with this truncation, ``[P]``; its past noise is forgotten.

    Returns:
        The sums including this truncation, ``[P, M]``.
    """
    return torch.where(fresh[:, None], 0.0, carried) + noise


def estimate(accumulated: Tensor, losses: Tensor, *, sigma: float) -> Tensor:
    """Estimate the gradient of the smoothed meta-loss over whole episodes.

    ``mean_p accumulated_p (L+_p - L-_p) / (2 sigma^2)``. A pair whose loss is not finite contributes nothing.

    Args:
        accumulated: From `accumulate`, ``[P, M]``.
        losses: Mean meta-loss over the truncation of the members at plus and minus the noise, ``[2, P]``.
        sigma: Standard deviation of the noise.

    Returns:
        The meta-gradient, ``[M]``.

    References:
        Vicol, Metz and Sohl-Dickstein, 2021, algorithm 2, https://arxiv.org/abs/2112.13835
    """
    difference = torch.nan_to_num(losses[0] - losses[1], nan=0.0, posinf=0.0, neginf=0.0)
    return (difference / (2 * sigma**2)) @ accumulated / accumulated.shape[0]
