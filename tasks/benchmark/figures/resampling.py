"""One stratified bootstrap for all intervals: seeds are resampled within each task, for everyone alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from tasks.benchmark.figures.metrics import Array, Interval

Name = TypeVar("Name", bound=Hashable)
Wanted = TypeVar("Wanted", bound=Hashable)
Weights = Array  # of the seeds, ``[M, S]``
Indices = NDArray[np.int64]

RESAMPLES = 2000
CONFIDENCE = 0.95


def intervals(
    strata: Sequence[Callable[[Weights], Mapping[Name, Array]]],
    seeds: int,
    combine: Callable[[Sequence[Mapping[Name, Array]]], Mapping[Wanted, Array]],
) -> dict[Wanted, Interval | None]:
    """Figures with their percentile bootstrap intervals, whatever follows from all tasks' figures.

    Args:
        strata: One for each task: its figures, ``[M]`` each, for rows of weights of its seeds, ``[M, S]``.
            Each is called with distinct rows only, since few seeds have few distinct resamples.
        seeds: Number of seeds, equal in all tasks.
        combine: What is wanted of all tasks' figures, ``[B]`` each for ``B`` resamples.

    Returns:
        The combined figures; None where one, or one of its resamples, is not finite.
    """
    everyone = tuple(np.arange(seeds) for _ in strata)
    plain = combine([figure(np.full((1, seeds), 1 / seeds)) for figure in strata])
    if seeds == 1 or not plain:
        numbers = {name: float(value[0]) for name, value in plain.items()}
        return {name: Interval(value) if math.isfinite(value) else None for name, value in numbers.items()}

    finite = np.array([np.isfinite(value[0]) for value in plain.values()])

    def statistic(*samples: Indices, axis: int) -> Array:
        assert axis == -1
        figures = combine([_by_multiset(*pair) for pair in zip(strata, samples, strict=True)])
        assert figures.keys() == plain.keys()
        values = np.stack([figures[name] for name in plain])
        finite[:] &= np.isfinite(values).all(axis=-1)
        return np.where(np.isfinite(values), values, 0.0)

    low, high = scipy.stats.bootstrap(
        everyone,
        statistic,
        vectorized=True,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return {
        name: Interval(float(value[0]), float(low[row]), float(high[row])) if finite[row] else None
        for row, (name, value) in enumerate(plain.items())
    }


def resampled(count: int, generator: np.random.Generator) -> Indices:
    """Indices drawn with replacement, ``[B, count]``; the first row is all of them, once each."""
    return np.concatenate([np.arange(count)[None], generator.integers(count, size=(RESAMPLES, count))])


def shares(samples: Indices) -> Weights:
    """The share of each seed in resamples of them, ``[..., S]`` to ``[..., S]``."""
    weights: Weights = (samples[..., None] == np.arange(samples.shape[-1])).mean(axis=-2)
    return weights


def distinct_shares(samples: Indices) -> tuple[Weights, Indices]:
    """The `shares` of resamples ``[B, S]``, each multiset once, ``[M, S]``, and which each has, ``[B]``."""
    distinct, inverse = np.unique(np.sort(samples, axis=-1), axis=0, return_inverse=True)
    return shares(distinct), inverse.reshape(-1)


def _by_multiset(figure: Callable[[Weights], Mapping[Name, Array]], samples: Indices) -> dict[Name, Array]:
    """A task's figures for indices of seeds, ``[B, S]``; order does not count, so each multiset runs once."""
    weights, which = distinct_shares(samples)
    return {name: values[which] for name, values in figure(weights).items()}
