"""One line of figures for every optimizer on every task, and one headline over the tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tasks.benchmark.cell import CellResult
from tasks.benchmark.metrics import (
    CONFIDENCE,
    Array,
    Interval,
    Sensitivity,
    envelope,
    interquartile_mean,
    resampled,
    sensitivity,
    smooth,
    speedup,
    steps_to_target,
)
from tasks.benchmark.profiles import Profile
from tasks.benchmark.settings import Settings, TaskInfo

if TYPE_CHECKING:
    from tasks.benchmark.timing import Timing

Choice = Literal["tuned", "default"]


Point = tuple[str, float]  # schedule and learning rate
Runs = Mapping[Point, Sequence[CellResult]]


@dataclass(frozen=True)
class Summary:
    """One optimizer on one task, at one choice of setting.

    Attributes:
        task: Name of the task.
        optimizer: Name of the entry.
        choice: ``"tuned"``, the best setting of the sweep, or ``"default"``, the best schedule at the default
            learning rate.
        settings_tried: Number of settings among which the choice was made.
        diverged: Share of the runs at those settings that diverged.
        failed: Share of those runs that failed.
        schedule: The chosen setting's schedule; None, as all below, if no setting finished on all seeds.
        learning_rate: The chosen setting's peak learning rate.
        final_loss: Mean over seeds of the final training loss.
        mean_loss: Mean over seeds and steps of the training loss: the area under the curve over the steps.
        validation: Mean over seeds of each validation metric.
        held_out_loss: Mean over seeds of the final loss at the setting that is best on the other seeds;
            infinite where it does not finish on the seed left out, None with a single seed.
        improvement: Probability that a seed's final loss is below that of the references' tuned setting; a
            tie is a half.
        steps: Length of the runs.
        target: Loss to which this optimizer and the references race, from here on None where there is no
            race, or one of them ends no lower than it began.
        steps_to_target: Steps that this optimizer needs.
        reference_steps_to_target: Steps that the best of the references needs.
        speedup: The references' steps divided by this optimizer's.
        seconds_to_target: Training time of those steps, run alone on one thread.
        reference_seconds_to_target: Likewise of the reference that is there first by the clock.
        wall_speedup: The references' seconds divided by this optimizer's.
        matched_at: Step at which the best of the references' settings is at this final loss, None if none
            gets there.
        matches_at: Step at which the best of this optimizer's settings is at the references' final loss.
        sensitivity: Range of good learning rates at the chosen schedule; None if there was but one.
        ms_per_step: The optimizer's own time, in milliseconds; None, as all below, if it was not timed.
        optimizer_share: The optimizer's share of the time of a whole step.
        state_floats: Optimizer state a parameter, in float32 equivalents.
    """

    task: str
    optimizer: str
    choice: Choice
    settings_tried: int
    diverged: float
    failed: float
    schedule: str | None = None
    learning_rate: float | None = None
    final_loss: Interval | None = None
    mean_loss: Interval | None = None
    validation: dict[str, Interval] | None = None
    held_out_loss: float | None = None
    improvement: Interval | None = None
    steps: int | None = None
    target: float | None = None
    steps_to_target: int | None = None
    reference_steps_to_target: int | None = None
    speedup: Interval | None = None
    seconds_to_target: float | None = None
    reference_seconds_to_target: float | None = None
    wall_speedup: Interval | None = None
    matched_at: int | None = None
    matches_at: int | None = None
    sensitivity: Sensitivity | None = None
    ms_per_step: float | None = None
    optimizer_share: float | None = None
    state_floats: float | None = None


@dataclass(frozen=True)
class Headline:
    """An optimizer against the references on all tasks together.

    Attributes:
        optimizer: Name of the entry.
        choice: As in `Summary`.
        references: Names of the entries that it is held against.
        speedup: Interquartile mean of the tasks' speed-ups, on a log scale; None where any is missing.
        wall_speedup: The same of the tasks' wall-clock speed-ups.
        improvement: Mean over tasks of the probability of improvement.
        suite: Name of the suite; empty for a free choice of tasks.
        tasks: Names of the tasks.
        steps: Length of the runs on each.
        seeds: The seeds.
    """

    optimizer: str
    choice: Choice
    references: tuple[str, ...]
    speedup: Interval | None
    wall_speedup: Interval | None
    improvement: Interval | None
    suite: str
    tasks: tuple[str, ...]
    steps: tuple[int, ...]
    seeds: tuple[int, ...]


def summarise(
    settings: Settings,
    tasks: Mapping[str, TaskInfo],
    cells: Sequence[CellResult],
    timings: Mapping[tuple[str, str], Timing],
) -> tuple[tuple[Summary, ...], tuple[Headline, ...], tuple[Profile, ...]]:
    """All summaries, by task and entry in order, headlines for every entry that races, and the profiles.

    Args:
        settings: What was chosen.
        tasks: The tasks, by name.
        cells: Every result.
        timings: Times by task and optimizer.

    Returns:
        The summaries, the headlines and the profiles.
    """
    runs: dict[tuple[str, str], dict[Point, list[CellResult]]] = {}
    for result in cells:
        cell = result.cell
        points = runs.setdefault((cell.task, cell.optimizer), {})
        points.setdefault((cell.schedule, cell.learning_rate), []).append(result)
    summaries: list[Summary] = []
    headlines: dict[tuple[str, Choice], list[Array | None]] = {}
    for task in tasks:
        reference = None
        if settings.references:
            sweeps = (
                (name, _at_rates(runs[task, name], settings.sweeps[name])) for name in settings.references
            )
            stacks = [stack for _, sweep in sweeps if (stack := _stack(sweep)) is not None]
            reference = np.concatenate(stacks, axis=1) if stacks else None
        for entry in settings.entries:
            sweep = settings.sweeps[entry.name]
            choices: dict[Choice, tuple[float, ...]] = {"tuned": sweep}
            if entry.default_lr in settings.rates(entry) and sweep != (entry.default_lr,):
                choices["default"] = (entry.default_lr,)
            for choice, rates in choices.items():
                chosen = _at_rates(runs[task, entry.name], rates)
                timing = timings.get((task, entry.name))
                summary, speedups = _summary(task, entry.name, choice, chosen, reference, timing)
                summaries.append(summary)
                headlines.setdefault((entry.name, choice), []).append(speedups)
    return (
        tuple(summaries),
        tuple(
            Headline(
                name,
                choice,
                settings.references,
                _aggregate(distributions),
                None,
                None,
                settings.suite,
                tuple(tasks),
                tuple(task.steps for task in tasks.values()),
                settings.seeds,
            )
            for (name, choice), distributions in headlines.items()
            if settings.races(name)
        ),
        (),
    )


def winner(runs: Runs) -> Point | None:
    """The setting of the lowest mean final training loss among those that finished on all seeds."""
    finished = {point: _mean_final(group) for point, group in runs.items()}
    best = min(finished, key=lambda point: finished[point], default=None)
    return best if best is not None and math.isfinite(finished[best]) else None


def curves_of(group: Sequence[CellResult]) -> Array:
    """Smoothed curves of one setting that finished on all seeds, ``[S, T]``, seeds in rising order."""
    ordered = sorted(group, key=lambda result: result.cell.seed)
    return smooth(np.stack([result.curve for result in ordered]).astype(np.float64))


def _summary(
    task: str,
    optimizer: str,
    choice: Choice,
    runs: Runs,
    reference: Array | None,
    timing: Timing | None,
) -> tuple[Summary, Array | None]:
    """One summary, and its speed-up followed by the resampled ones."""
    flat = [result for group in runs.values() for result in group]
    share = {status: sum(r.status == status for r in flat) / len(flat) for status in ("diverged", "failed")}
    counted: dict[str, Any] = {"settings_tried": len(runs), **share}
    best = winner(runs)
    if best is None:
        return Summary(task, optimizer, choice, **counted), None
    group, curves = runs[best], curves_of(runs[best])
    figures: dict[str, Any] = {
        "schedule": best[0],
        "learning_rate": best[1],
        "final_loss": resampled(lambda seeds: float(curves[seeds, -1].mean()), len(curves))[0],
        "mean_loss": _over_seeds([r.mean_loss for r in group]),
        "validation": {m: _over_seeds([r.validation[m] for r in group]) for m in group[0].validation},
        "steps": group[0].cell.steps,
    }
    if timing is not None:
        figures["ms_per_step"] = 1e3 * timing.step_seconds
        figures["optimizer_share"] = timing.step_seconds / timing.training_seconds
        figures["state_floats"] = timing.state_floats
    if len({rate for _, rate in runs}) > 1:
        figures["sensitivity"] = sensitivity(
            {p[1]: _mean_final(g) for p, g in runs.items() if p[0] == best[0]}
        )
    ours, speedups = _stack(runs), None
    if reference is not None and ours is not None:
        race, speedups = _race(ours, reference)
        figures.update(race)
    return Summary(task, optimizer, choice, **counted, **figures), speedups


def _race(ours: Array, reference: Array) -> tuple[dict[str, Any], Array | None]:
    """Figures of an optimizer against the reference, from ``[S, P, T]`` each, and the resampled speed-ups."""
    everyone = np.arange(len(ours))
    mine, theirs = envelope(ours, everyone), envelope(reference, everyone)
    figures: dict[str, Any] = {
        "matched_at": steps_to_target(theirs, mine[-1]),
        "matches_at": steps_to_target(mine, theirs[-1]),
    }
    interval, speedups = resampled(
        lambda seeds: speedup(envelope(ours, seeds), envelope(reference, seeds)), len(ours)
    )
    if not np.isfinite(speedups).all():
        return figures, None
    return {**figures, "speedup": interval}, speedups


def _stack(runs: Runs) -> Array | None:
    """Smoothed curves of every setting that finished on all seeds, ``[S, P, T]``."""
    finished = [curves_of(group) for group in runs.values() if math.isfinite(_mean_final(group))]
    return np.stack(finished, axis=1) if finished else None


def _aggregate(distributions: Sequence[Array | None]) -> Interval | None:
    """Interquartile mean over tasks; seeds were resampled within each task."""
    present = [speedups for speedups in distributions if speedups is not None]
    if len(present) < len(distributions):
        return None
    value, *others = interquartile_mean(np.stack(present))
    if not others:
        return Interval(float(value))
    low, high = np.quantile(others, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(value), float(low), float(high))


def _over_seeds(values: Sequence[float]) -> Interval:
    return resampled(lambda seeds: float(np.mean([values[seed] for seed in seeds])), len(values))[0]


def _at_rates(runs: Runs, rates: Sequence[float]) -> Runs:
    return {point: group for point, group in runs.items() if point[1] in rates}


def _mean_final(group: Sequence[CellResult]) -> float:
    return float(np.mean([result.final_loss for result in group]))
