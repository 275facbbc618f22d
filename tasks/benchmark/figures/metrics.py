"""Figures of merit; each is defined with its formula in ``docs/benchmark.md``.

Curves are arrays of training losses before each step, ``[..., T]``. ``S`` is the number of seeds, ``P`` of
settings and ``M`` of ways to weigh the seeds; a row of weights ``[M, S]`` sums to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from tasks.benchmark.running.cell import final_window

Array = NDArray[np.float64]
WITHIN = 0.1
SLACK = 0.01
CHUNK_NUMBERS = 4_000_000  # of weighted curves in memory at once


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval; ``low`` and ``high`` are None with a single seed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Sensitivity:
    """Learning rates around the best whose final loss stays within 10 % of its own.

    Attributes:
        low: Lowest such rate of the sweep.
        high: Highest.
        open_ended: Whether the sweep ends there, so that the range may be wider.
    """

    low: float
    high: float
    open_ended: bool

    @property
    def factor(self) -> float:
        """Width of the range, 1 if no neighbour of the best is within it."""
        return self.high / self.low


def smooth(curves: Array) -> Array:
    """Trailing mean over a tenth of the steps; at the start over as many as there are.

    Its last value is the final loss. A window is summed as the end of one block of its length and the start
    of the next, so that nothing cancels and the cost does not grow with the window.

    Args:
        curves: Losses, ``[..., T]``.

    Returns:
        The same shape.
    """
    steps = curves.shape[-1]
    window = final_window(steps)
    count = -(-steps // window)
    padding = [(0, 0)] * (curves.ndim - 1) + [(0, count * window - steps)]
    blocks = np.pad(curves, padding).reshape(*curves.shape[:-1], count, window)
    sums = np.cumsum(blocks, axis=-1)
    sums[..., 1:, :-1] += np.cumsum(blocks[..., :-1, :0:-1], axis=-1)[..., ::-1]
    smoothed: Array = sums.reshape(*curves.shape[:-1], count * window)[..., :steps]
    return smoothed / np.minimum(np.arange(1, steps + 1), window)


def envelope(curves: Array, weights: Array) -> Array:
    """At each step the lowest of several settings' mean losses: the best that this tuning budget gives.

    Args:
        curves: Smoothed losses, ``[S, P, T]``.
        weights: Share of each seed in the means, ``[M, S]``.

    Returns:
        An envelope for every row of weights, ``[M, T]``.
    """
    seeds, settings, steps = curves.shape
    flat = curves.reshape(seeds, settings * steps)
    rows = max(1, CHUNK_NUMBERS // flat.shape[1])
    found = np.empty((len(weights), steps))
    for start in range(0, len(weights), rows):
        means = (weights[start : start + rows] @ flat).reshape(-1, settings, steps)
        means.min(axis=1, out=found[start : start + rows])
    return found


def steps_to_target(curves: Array, target: ArrayLike) -> Array:
    """Number of steps until each curve, or its running minimum, first is at or below a target.

    Args:
        curves: Smoothed losses, ``[..., T]``.
        target: A loss for each, ``[...]``.

    Returns:
        Numbers in 1..T, infinite where a curve never is, or where the target is NaN.
    """
    reached = curves <= np.asarray(target, np.float64)[..., None]
    return np.where(reached.any(-1), reached.argmax(-1) + 1.0, np.inf)


def common_target(start: ArrayLike, end: ArrayLike) -> Array:
    """The loss to which to race: 1 % short of an end, which on a plateau is chance.

    Args:
        start: Loss before the first step, ``[...]``.
        end: Final loss, ``[...]``, of the worse of the racers.

    Returns:
        The end plus 1 % of itself or of the way to it, whichever is less; NaN unless it is below the start.
    """
    first, last = np.asarray(start, np.float64), np.asarray(end, np.float64)
    return np.where(last < first, last + SLACK * np.minimum(np.abs(last), first - last), np.nan)


def race(ours: Array, reference: Array) -> tuple[Array, Array, Array]:
    """Two race to within 1 % of the worse of their final losses.

    Args:
        ours: Envelopes of our smoothed losses, ``[..., T]``; see `envelope`.
        reference: Likewise, from the same start.

    Returns:
        The target, our steps to it and the reference's, ``[...]`` each; NaN if the worse ends no lower than
        it began.
    """
    start = np.maximum(ours[..., 0], reference[..., 0])
    target = common_target(start, np.maximum(ours[..., -1], reference[..., -1]))
    mine, theirs = steps_to_target(ours, target), steps_to_target(reference, target)
    valid = ~np.isnan(target)
    return target, np.where(valid, mine, np.nan), np.where(valid, theirs, np.nan)


def speedup(ours: Array, reference: Array) -> Array:
    """Steps-to-target speed-up: steps of the reference to the common target, divided by ours.

    ``speedup(a, b) == 1 / speedup(b, a)``, and above 1 ours is faster.

    Args:
        ours: As in `race`.
        reference: As in `race`.

    Returns:
        The ratio, ``[...]``; NaN if the worse ends no lower than it began.
    """
    _, mine, theirs = race(ours, reference)
    return np.asarray(theirs / mine)


def improved(ours: Array, reference: Array) -> Array:
    """Whether ours is lower, seed by seed; its mean is the paired probability of improvement.

    Args:
        ours: Final losses, ``[S]``; infinite where nothing finished.
        reference: Those of the reference on the same seeds.

    Returns:
        1 where ours is lower, 1/2 where they are equal, 0 elsewhere, ``[S]``.
    """
    return np.asarray((ours < reference) + 0.5 * (ours == reference))


def sensitivity(losses: Mapping[float, float]) -> Sensitivity:
    """Range of learning rates around the best within which the final loss grows by at most 10 %.

    Args:
        losses: Final loss by learning rate; infinite where a run did not finish.

    Returns:
        The contiguous range.
    """
    rates = sorted(losses)
    best = min(range(len(rates)), key=lambda k: losses[rates[k]])
    limit = losses[rates[best]] + WITHIN * abs(losses[rates[best]])
    low = high = best
    while low > 0 and losses[rates[low - 1]] <= limit:
        low -= 1
    while high < len(rates) - 1 and losses[rates[high + 1]] <= limit:
        high += 1
    return Sensitivity(rates[low], rates[high], open_ended=low == 0 or high == len(rates) - 1)


def interquartile_mean(ratios: Array) -> Array:
    """Mean over tasks of the middle half of positive ratios, on a log scale.

    Args:
        ratios: ``[tasks, ...]``.

    Returns:
        The mean ratio, ``[...]``, NaN where any is. With fewer than four tasks nothing is cut off.
    """
    mean = np.exp(scipy.stats.trim_mean(np.log(ratios), 0.25, axis=0))
    return np.where(np.isnan(ratios).any(axis=0), np.nan, mean)
