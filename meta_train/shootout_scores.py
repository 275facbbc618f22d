"""What the benchmark of a shoot-out says of each memory, over meta-seeds and seeds together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.benchmark import Results
from tasks.benchmark.figures.contest import Contestant, Runs, curves_of
from tasks.benchmark.figures.metrics import Array, Interval, interquartile_mean, speedup
from tasks.benchmark.figures.resampling import CONFIDENCE, Indices, distinct_shares, resampled, shares

SEED = 0

Rules = Mapping[str, Sequence[str]]
"""Names of the benchmark's entries by the memory that they are of, one a meta-seed."""


@dataclass(frozen=True)
class MemoryScore:
    """One memory against the reference.

    Attributes:
        memory: Its name.
        speedup: Interquartile mean over tasks of `by_task`, on a log scale; None where one is missing.
        by_task: On each task, the geometric mean over meta-seeds of the speed-ups; None where a rule or the
            reference ends no lower than it began.
        final_loss: On each task, the mean over meta-seeds and seeds of the final training loss, each rule at
            its own best setting; None where none of a rule's settings finished.
    """

    memory: str
    speedup: Interval | None
    by_task: dict[str, Interval | None]
    final_loss: dict[str, Interval | None]


@dataclass(frozen=True)
class Curve:
    """Smoothed training loss of a memory or the reference on a task.

    Attributes:
        mean: Over meta-seeds and seeds, ``[T]``.
        low: Lower end of the 95 % interval, ``[T]``.
        high: Upper end, ``[T]``.
    """

    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class _Resamples:
    """Indices drawn with replacement: of meta-seeds ``[B, J]``, of seeds ``[B, S]``; the first row is all."""

    rules: Indices
    seeds: Indices


def memory_scores(results: Results, rules: Rules, reference: str) -> list[MemoryScore]:
    """Score every memory.

    The intervals resample meta-seeds, the same for all tasks, and seeds within each task; of one meta-seed
    and one seed there are none.

    Args:
        results: Of the benchmark.
        rules: Its entries by memory.
        reference: Name of the entry over which speed-ups are figured.
    """
    return [_score(results, memory, names, reference) for memory, names in rules.items()]


def _score(results: Results, memory: str, names: Sequence[str], reference: str) -> MemoryScore:
    generator = np.random.default_rng(SEED)
    seeds, logs, finals = len(results.settings.seeds), {}, {}
    chosen = resampled(len(names), generator)
    for task in results.tasks:
        drawn = _Resamples(chosen, resampled(seeds, generator))
        logs[task] = _log_speedups(results, task, names, reference, drawn)
        finals[task] = _final_losses(results, task, names, drawn)
    together = interquartile_mean(np.exp(np.stack(list(logs.values()))))
    single = len(names) == seeds == 1
    return MemoryScore(
        memory,
        _interval(together, single),
        {task: _interval(np.exp(values), single) for task, values in logs.items()},
        {task: _interval(values, single) for task, values in finals.items()},
    )


def rule_speedup(results: Results, task: str, name: str, reference: str) -> float:
    """Speed-up of one entry on a task over all seeds; NaN where there is none."""
    everyone = np.arange(len(results.settings.seeds))[None]
    return float(
        np.exp(_log_speedups(results, task, [name], reference, _Resamples(everyone[:, :1], everyone))[0])
    )


def _log_speedups(
    results: Results, task: str, names: Sequence[str], reference: str, drawn: _Resamples
) -> Array:
    """Mean over the drawn meta-seeds of log speed-ups on the drawn seeds, ``[B]``; NaN if one is missing."""
    weights, which = distinct_shares(drawn.seeds)
    rival = _contestant(results, task, reference).envelope(weights)
    rows = []
    for name in names:
        ours = _contestant(results, task, name).envelope(weights)
        missing = np.full(len(weights), np.nan)
        rows.append(missing if ours is None or rival is None else np.log(speedup(ours, rival)))
    by_rule = np.stack(rows)[:, which]
    return np.asarray(np.take_along_axis(by_rule, drawn.rules.T, axis=0).mean(axis=0))


def _final_losses(results: Results, task: str, names: Sequence[str], drawn: _Resamples) -> Array:
    """Mean final losses, ``[B]``."""
    curves = best_curves(results, task, names)
    if curves is None:
        return np.full(len(drawn.seeds), np.nan)
    finals = curves[..., -1]
    return np.asarray(finals[drawn.rules[:, :, None], drawn.seeds[:, None, :]].mean(axis=(1, 2)))


def best_curves(results: Results, task: str, names: Sequence[str]) -> Array | None:
    """Smoothed curves of some entries, each at its best setting, ``[J, S, T]``; None where one has none."""
    curves = []
    for name in names:
        summary = results.summary(task, name)
        if summary is None or summary.schedule is None or summary.learning_rate is None:
            return None
        curves.append(curves_of(results.runs(task, name, summary.schedule, summary.learning_rate)))
    return np.stack(curves)


def mean_curve(results: Results, task: str, names: Sequence[str]) -> Curve | None:
    """The mean of `best_curves` and its interval, which resamples meta-seeds and seeds."""
    curves = best_curves(results, task, names)
    if curves is None:
        return None
    generator = np.random.default_rng(SEED)
    drawn = [shares(resampled(count, generator)[1:]) for count in curves.shape[:2]]
    means = np.einsum("bj,bs,jst->bt", *drawn, curves, optimize=True)
    low, high = np.quantile(means, _tails(), axis=0)
    return Curve(curves.mean(axis=(0, 1)), low, high)


def _contestant(results: Results, task: str, name: str) -> Contestant:
    """An entry with all its runs at the rates of its sweep."""
    settings = results.settings
    runs: Runs = {
        (schedule, rate): results.runs(task, name, schedule, rate)
        for schedule in settings.schedules
        for rate in settings.sweeps[name]
    }
    return Contestant(name, "tuned", runs)


def _interval(values: Array, single: bool) -> Interval | None:
    """The first value with the quantiles of the others, without them if it is of a single run.

    None unless all are finite.
    """
    if not np.isfinite(values).all():
        return None
    if single:
        return Interval(float(values[0]))
    low, high = np.quantile(values[1:], _tails())
    return Interval(float(values[0]), float(low), float(high))


def _tails() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
