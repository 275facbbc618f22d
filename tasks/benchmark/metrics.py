"""Figures of merit; each is defined with its formula in ``docs/benchmark.md``.

Curves are arrays of training losses before each step, ``[T]`` or ``[S, T]`` with ``S`` seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from tasks.benchmark.cell import final_window

Array = NDArray[np.float64]
RESAMPLES = 2000
CONFIDENCE = 0.95
WITHIN = 0.1
SLACK = 0.01


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

    Its last value is the final loss.

    Args:
        curves: Losses, ``[..., T]``.

    Returns:
        The same shape.
    """
    steps = curves.shape[-1]
    window = final_window(steps)
    head = np.cumsum(curves[..., : window - 1], axis=-1) / np.arange(1, window)
    tail = np.lib.stride_tricks.sliding_window_view(curves, window, axis=-1).mean(-1)
    return np.concatenate([head, tail], axis=-1)


def steps_to_target(curve: Array, target: float) -> int | None:
    """Number of steps until a curve first is at or below a target.

    Args:
        curve: Smoothed losses, ``[T]``.
        target: A loss.

    Returns:
        A number in 1..T, or None if it never is.
    """
    reached = np.flatnonzero(curve <= target)
    return int(reached[0]) + 1 if reached.size else None


def speedup(ours: Array, reference: Array) -> float:
    """Steps-to-target speed-up: both race to within 1 % of the worse of their final losses.

    ``speedup(a, b) == 1 / speedup(b, a)``, and above 1 ours is faster. The last percent is left out because
    on a plateau it is chance when it is gone; it is of the loss or of the way to it, whichever is less.

    Args:
        ours: Envelope of our smoothed losses, ``[T]``; see `envelope`.
        reference: Likewise, from the same start.

    Returns:
        Steps of the reference divided by ours; NaN if the worse ends no lower than it began.
    """
    start, worse = max(float(ours[0]), float(reference[0])), max(float(ours[-1]), float(reference[-1]))
    target = worse + SLACK * min(abs(worse), start - worse)
    mine, theirs = steps_to_target(ours, target), steps_to_target(reference, target)
    return theirs / mine if worse < start and mine and theirs else math.nan


def envelope(curves: Array, seeds: NDArray[np.int64]) -> Array:
    """At each step the lowest of several settings' mean losses: the best that this tuning budget gives.

    Args:
        curves: Smoothed losses, ``[S, P, T]`` for ``P`` settings.
        seeds: Indices of the seeds over which to average; one may repeat.

    Returns:
        The envelope, ``[T]``.
    """
    weights = np.bincount(seeds, minlength=len(curves)) / len(seeds)
    return np.asarray(np.tensordot(weights, curves, 1).min(axis=0))


def resampled(statistic: Callable[[NDArray[np.int64]], float], seeds: int) -> tuple[Interval, Array]:
    """A figure over seeds, its percentile bootstrap interval and its values on resampled seeds.

    Args:
        statistic: The figure for an index array of seeds, whatever their order.
        seeds: How many there are.

    Returns:
        The interval, and the figure followed by its `RESAMPLES` resampled values; with a single seed, alone.
    """
    known: dict[bytes, float] = {}

    def remembered(chosen: NDArray[np.int64]) -> float:
        key = np.sort(chosen).tobytes()
        if key not in known:
            known[key] = statistic(chosen)
        return known[key]

    value = statistic(np.arange(seeds))
    if seeds == 1:
        return Interval(value), np.array([value])
    outcome = scipy.stats.bootstrap(
        (np.arange(seeds),),
        remembered,
        vectorized=False,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(0),
    )
    low, high = outcome.confidence_interval
    return Interval(value, float(low), float(high)), np.append(value, outcome.bootstrap_distribution)


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


def interquartile_mean(speedups: Array) -> Array:
    """Mean over tasks of the middle half of the speed-ups, on a log scale.

    Args:
        speedups: Positive ratios, ``[tasks, ...]``.

    Returns:
        The mean ratio, ``[...]``. With fewer than four tasks nothing is cut off.
    """
    return np.asarray(np.exp(scipy.stats.trim_mean(np.log(speedups), 0.25, axis=0)))
