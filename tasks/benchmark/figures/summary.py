"""One line of figures for every optimizer on every task, and one headline over the tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.benchmark.contestants.entry import Entry
from tasks.benchmark.figures.contest import (
    PROFILE_STEPS,
    Choice,
    Contest,
    Contestant,
    Key,
    Point,
    Runs,
    curves_of,
    final_losses,
    held_out_loss,
)
from tasks.benchmark.figures.metrics import Array, Interval, Sensitivity, interquartile_mean, sensitivity
from tasks.benchmark.figures.profiles import RATIOS, Profile, profile_shares
from tasks.benchmark.figures.resampling import intervals
from tasks.benchmark.running.cell import CellResult
from tasks.benchmark.running.timing import Timing
from tasks.benchmark.settings import Settings, TaskInfo

__all__ = ["Choice", "Headline", "Summary", "curves_of", "summarise"]

Figures = Mapping[Key, Array]
INTERVALS = ("final_loss", "mean_loss", "improvement", "speedup", "wall_speedup")
Found = Mapping[tuple[str, Key], Interval | None]  # by task, empty for all of them together


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
    for result in sorted(cells, key=lambda result: result.cell.seed):
        cell = result.cell
        points = runs.setdefault((cell.task, cell.optimizer), {})
        points.setdefault((cell.schedule, cell.learning_rate), []).append(result)
    contests = [_contest(settings, task, runs, timings) for task in tasks.values()]

    def combine(figures: Sequence[Figures]) -> dict[tuple[str, Key], Array]:
        return _combined(settings, tasks, figures)

    found = intervals([contest.figures for contest in contests], len(settings.seeds), combine)
    summaries = [
        _summary(contest, one, found, timings.get((contest.task.name, one.optimizer)))
        for contest in contests
        for one in contest.contestants
    ]
    pairs = [(entry.name, choice) for entry in settings.entries for choice in _choices(settings, entry)]
    headlines = [
        _headline(settings, tasks, name, choice, found) for name, choice in pairs if settings.races(name)
    ]
    profiles = [_profile(entry.name, found) for entry in settings.entries]
    return tuple(summaries), tuple(headlines), tuple(profile for profile in profiles if profile is not None)


def _choices(settings: Settings, entry: Entry) -> dict[Choice, tuple[float, ...]]:
    """The learning rates of each choice of setting that an entry has."""
    sweep = settings.sweeps[entry.name]
    choices: dict[Choice, tuple[float, ...]] = {"tuned": sweep}
    if entry.default_lr in settings.rates(entry) and sweep != (entry.default_lr,):
        choices["default"] = (entry.default_lr,)
    return choices


def _contest(
    settings: Settings,
    task: TaskInfo,
    runs: Mapping[tuple[str, str], Runs],
    timings: Mapping[tuple[str, str], Timing],
) -> Contest:
    contestants = []
    for entry in settings.entries:
        timing = timings.get((task.name, entry.name))
        seconds = timing.training_seconds if timing else math.nan
        for choice, rates in _choices(settings, entry).items():
            points = {
                point: group for point, group in runs[task.name, entry.name].items() if point[1] in rates
            }
            contestants.append(Contestant(entry.name, choice, points, seconds))
    tuned = {one.optimizer: one for one in contestants if one.choice == "tuned"}
    return Contest(task, settings.select, contestants, [tuned[name] for name in settings.references])


def _combined(
    settings: Settings, tasks: Mapping[str, TaskInfo], figures: Sequence[Figures]
) -> dict[tuple[str, Key], Array]:
    """Figures of every task, and those over all tasks, under the empty name."""
    found = {
        (task, key): values
        for task, mine in zip(tasks, figures, strict=True)
        for key, values in mine.items()
        if key[2] != PROFILE_STEPS
    }
    overall = {"speedup": interquartile_mean, "wall_speedup": interquartile_mean, "improvement": _mean}
    for entry in settings.entries:
        for choice in _choices(settings, entry):
            for name, average in overall.items():
                key: Key = (entry.name, choice, name)
                if all(key in mine for mine in figures):
                    found["", key] = average(np.stack([mine[key] for mine in figures]))
    steps = [
        [mine.get((entry.name, "tuned", PROFILE_STEPS)) for entry in settings.entries] for mine in figures
    ]
    if all(one is not None for row in steps for one in row):
        shares = profile_shares(np.array(steps))
        for entry, rows in zip(settings.entries, shares, strict=True):
            for ratio, values in zip(RATIOS, rows, strict=True):
                found["", (entry.name, "tuned", f"within {ratio}")] = values
    return found


def _summary(contest: Contest, one: Contestant, found: Found, timing: Timing | None) -> Summary:
    runs, task = one.runs, contest.task
    flat = [result for group in runs.values() for result in group]
    share = {status: sum(r.status == status for r in flat) / len(flat) for status in ("diverged", "failed")}
    counted: dict[str, Any] = {"settings_tried": len(runs), **share}
    best = contest.best(one)
    if best is None:
        return Summary(task.name, one.optimizer, one.choice, **counted)

    def figure(name: str) -> Interval | None:
        return found.get((task.name, (one.optimizer, one.choice, name)))

    figures: dict[str, Any] = {
        "schedule": best[0],
        "learning_rate": best[1],
        "validation": {name: figure(f"validation {name}") for name in runs[best][0].validation},
        "held_out_loss": held_out_loss(runs, task, contest.select),
        "steps": task.steps,
        **{name: figure(name) for name in INTERVALS},
        **contest.milestones(one),
    }
    if len({rate for _, rate in runs}) > 1:
        finals = {point[1]: final_losses(runs, point).mean() for point in runs if point[0] == best[0]}
        figures["sensitivity"] = sensitivity(finals)
    if timing is not None:
        figures["ms_per_step"] = 1e3 * timing.step_seconds
        figures["optimizer_share"] = timing.step_seconds / timing.training_seconds
        figures["state_floats"] = timing.state_floats
    return Summary(task.name, one.optimizer, one.choice, **counted, **figures)


def _headline(
    settings: Settings, tasks: Mapping[str, TaskInfo], optimizer: str, choice: Choice, found: Found
) -> Headline:
    speedup, wall_speedup, improvement = (
        found.get(("", (optimizer, choice, name))) for name in ("speedup", "wall_speedup", "improvement")
    )
    return Headline(
        optimizer,
        choice,
        settings.references,
        speedup,
        wall_speedup,
        improvement,
        settings.suite,
        tuple(tasks),
        tuple(task.steps for task in tasks.values()),
        settings.seeds,
    )


def _profile(optimizer: str, found: Found) -> Profile | None:
    """An optimizer's profile; None if some task has no target."""
    shares = [found.get(("", (optimizer, "tuned", f"within {ratio}"))) for ratio in RATIOS]
    present = [share for share in shares if share is not None]
    if len(present) < len(RATIOS):
        return None
    return Profile(
        optimizer,
        RATIOS,
        tuple(share.value for share in present),
        tuple(share.low for share in present if share.low is not None),
        tuple(share.high for share in present if share.high is not None),
    )


def _mean(values: Array) -> Array:
    return np.asarray(values.mean(axis=0))
