"""Performance profiles: on what share of the tasks an optimizer is within a factor of the fastest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.benchmark.figures.metrics import Array

RATIOS = tuple(float(2 ** (k / 8)) for k in range(41))  # 1 to 32


@dataclass(frozen=True)
class Profile:
    """One optimizer's performance profile over the tasks, tuned.

    Attributes:
        optimizer: Name of the entry.
        ratios: Factors of the fastest optimizer's steps to the target, rising from 1.
        share: Share of the tasks on which this one needs at most that factor, in 0..1, as many.
        low: Lower end of each share's 95 % interval; empty with a single seed.
        high: Upper end.
    """

    optimizer: str
    ratios: tuple[float, ...]
    share: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def profile_shares(steps: Array) -> Array:
    """Performance profiles of all optimizers at `RATIOS`.

    Args:
        steps: Steps to each task's target, ``[tasks, optimizers, ...]``, infinite where one never is there;
            NaN where a task has no target.

    Returns:
        Share of the tasks on which an optimizer needs at most so many times the steps of the fastest,
        ``[optimizers, ratios, ...]``; NaN where a task has no target.

    References:
        Dolan and Moré, 2002, https://arxiv.org/abs/cs/0102001
    """
    fastest = steps.min(axis=1, keepdims=True)
    within = np.stack([steps <= ratio * fastest for ratio in RATIOS], axis=2) & np.isfinite(steps)[:, :, None]
    return np.where(np.isnan(fastest).any(axis=0)[:, None], np.nan, within.mean(axis=0))
