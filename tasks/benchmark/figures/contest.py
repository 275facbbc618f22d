"""One task: who takes part with which runs, and their figures as functions of the seeds' weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np

from tasks.benchmark.figures.metrics import (
    Array,
    common_target,
    envelope,
    improved,
    race,
    smooth,
    steps_to_target,
)
from tasks.benchmark.running.cell import CellResult
from tasks.benchmark.settings import Select, TaskInfo

Choice = Literal["tuned", "default"]
Point = tuple[str, float]  # schedule and learning rate
Runs = Mapping[Point, Sequence[CellResult]]
Key = tuple[str, Choice, str]  # optimizer, choice of setting, figure
Setting = TypeVar("Setting")

PROFILE_STEPS = "profile_steps"


@dataclass(frozen=True)
class Contestant:
    """An optimizer on a task at one choice of setting.

    Attributes:
        optimizer: Name of the entry.
        choice: Which of its settings these are.
        runs: The results at each setting, seeds in rising order.
        training_seconds: Time of a whole training step; NaN if it was not timed.
    """

    optimizer: str
    choice: Choice
    runs: Runs
    training_seconds: float = math.nan

    def envelope(self, weights: Array) -> Array | None:
        """Its envelope over the settings that finished on all seeds, for weights ``[M, S]``: ``[M, T]``."""
        finished = [curves_of(group) for group in self.runs.values() if finished_on_all(group)]
        return envelope(np.stack(finished, axis=1), weights) if finished else None


@dataclass(frozen=True)
class Contest:
    """A task with all that ran on it.

    Attributes:
        task: The task.
        select: What a setting is chosen by.
        contestants: Every optimizer at every choice of setting.
        references: The tuned ones over the best of which speed-ups are figured.
    """

    task: TaskInfo
    select: Select
    contestants: Sequence[Contestant]
    references: Sequence[Contestant]

    def best(self, one: Contestant) -> Point | None:
        """The setting that is chosen; None if none finished on all seeds."""
        return winner(one.runs, self.task, self.select)

    def figures(self, weights: Array) -> dict[Key, Array]:
        """Every figure that has an interval, and the steps of the performance profile.

        Args:
            weights: Rows of weights of the seeds, ``[M, S]``.

        Returns:
            ``[M]`` each; speed-ups are there where some of both's settings finished, and NaN where one of
            both ends no lower than it began.
        """
        found: dict[Key, Array] = {}
        rivals = self._reference_envelopes(weights)
        for one in self.contestants:
            rows = {name: weights @ values for name, values in self._averages(one).items()}
            if rivals:
                rows |= self._races(one, rivals, weights)
            found |= {(one.optimizer, one.choice, name): values for name, values in rows.items()}
        return found

    def milestones(self, one: Contestant) -> dict[str, Any]:
        """The fields of a `Summary` that are plain counts and times of the race, over all seeds."""
        seeds = len(next(iter(one.runs.values())))
        weights = np.full((1, seeds), 1 / seeds)
        mine, rivals = one.envelope(weights), self._reference_envelopes(weights)
        if mine is None or not rivals:
            return {}
        theirs = _lowest(rivals)
        found: dict[str, Any] = {
            "matched_at": _count(steps_to_target(theirs, mine[:, -1])),
            "matches_at": _count(steps_to_target(mine, theirs[:, -1])),
        }
        target, steps, reference_steps = race(mine, theirs)
        if np.isnan(target[0]):
            return found
        return found | {
            "target": float(target[0]),
            "steps_to_target": _count(steps),
            "reference_steps_to_target": _count(reference_steps),
            "seconds_to_target": _finite(steps * one.training_seconds),
            "reference_seconds_to_target": _finite(self._reference_seconds(rivals, target)),
        }

    @cached_property
    def reference_finals(self) -> Array | None:
        """Final losses at the best of all the references' settings, ``[S]``, infinite if none finished."""
        runs = {(one.optimizer, point): group for one in self.references for point, group in one.runs.items()}
        best = winner(runs, self.task, self.select)
        return final_losses(runs, best) if runs else None

    def _averages(self, one: Contestant) -> dict[str, Array]:
        """Figures that are means over seeds, by their values on each, ``[S]``."""
        best, found = self.best(one), {}
        if best is not None:
            group = one.runs[best]
            found = {"final_loss": final_losses(one.runs, best)}
            found["mean_loss"] = np.array([run.mean_loss for run in group])
            for metric in group[0].validation:
                found[f"validation {metric}"] = np.array([run.validation[metric] for run in group])
        if self.reference_finals is not None:
            found["improvement"] = improved(final_losses(one.runs, best), self.reference_finals)
        return found

    def _races(self, one: Contestant, rivals: Mapping[str, Array], weights: Array) -> dict[str, Array]:
        mine, theirs = one.envelope(weights), _lowest(rivals)
        end = common_target(theirs[:, 0], theirs[:, -1])
        if mine is None:
            return {PROFILE_STEPS: np.where(np.isnan(end), np.nan, np.inf)}
        target, steps, reference_steps = race(mine, theirs)
        seconds = self._reference_seconds(rivals, target)
        return {
            "speedup": reference_steps / steps,
            "wall_speedup": seconds / (steps * one.training_seconds),
            PROFILE_STEPS: np.where(np.isnan(end), np.nan, steps_to_target(mine, end)),
        }

    def _reference_envelopes(self, weights: Array) -> dict[str, Array]:
        found = {one.optimizer: one.envelope(weights) for one in self.references}
        return {name: curves for name, curves in found.items() if curves is not None}

    def _reference_seconds(self, rivals: Mapping[str, Array], target: Array) -> Array:
        """Time to a target of the reference that is there first by the clock, NaN if one was not timed."""
        cost = {one.optimizer: one.training_seconds for one in self.references}
        return np.asarray(
            np.min([steps_to_target(rivals[name], target) * cost[name] for name in rivals], axis=0)
        )


def winner(runs: Mapping[Setting, Sequence[CellResult]], task: TaskInfo, select: Select) -> Setting | None:
    """The best setting among those that finished on all seeds.

    Args:
        runs: The results at each setting.
        task: The task, for its metric.
        select: ``"train"``, by the mean final loss, or ``"validation"``, by the mean of that metric.

    Returns:
        The first of the best, or None if none finished.
    """
    scores = {setting: float(np.mean(_scores(group, task, select))) for setting, group in runs.items()}
    best = min(scores, key=lambda setting: scores[setting], default=None)
    return best if best is not None and math.isfinite(scores[best]) else None


def held_out_loss(runs: Runs, task: TaskInfo, select: Select) -> float | None:
    """Mean over seeds of the final loss at the setting that is best on all the other seeds.

    Args:
        runs: The results at each setting, seeds in rising order.
        task: As in `winner`.
        select: As in `winner`.

    Returns:
        The loss, infinite if a chosen setting did not finish on the seed left out; None with a single seed,
        or where no setting finished on all others.
    """
    scores = np.array([_scores(group, task, select) for group in runs.values()])
    finals = np.array([[run.final_loss for run in group] for group in runs.values()])
    seeds = finals.shape[1]
    if seeds == 1:
        return None
    others = [np.delete(scores, seed, axis=1).mean(axis=1) for seed in range(seeds)]
    if not all(np.isfinite(means).any() for means in others):
        return None
    return float(np.mean([finals[means.argmin(), seed] for seed, means in enumerate(others)]))


def final_losses(runs: Mapping[Setting, Sequence[CellResult]], setting: Setting | None) -> Array:
    """Final losses at a setting, ``[S]``; infinite for the setting None."""
    if setting is None:
        return np.full(len(next(iter(runs.values()))), math.inf)
    return np.array([run.final_loss for run in runs[setting]])


def curves_of(group: Sequence[CellResult]) -> Array:
    """Smoothed curves of one setting that finished on all seeds, ``[S, T]``, seeds in rising order."""
    ordered = sorted(group, key=lambda result: result.cell.seed)
    return smooth(np.stack([result.curve for result in ordered]).astype(np.float64))


def finished_on_all(group: Sequence[CellResult]) -> bool:
    """Whether every run of a setting finished."""
    return all(run.status == "finished" for run in group)


def _scores(group: Sequence[CellResult], task: TaskInfo, select: Select) -> list[float]:
    """What a setting is chosen by, on every seed: less is better, infinite unless finished."""
    if select == "train":
        return [run.final_loss for run in group]
    sign = -1 if task.higher_is_better else 1
    return [sign * run.validation[task.metric] if run.status == "finished" else math.inf for run in group]


def _lowest(envelopes: Mapping[str, Array]) -> Array:
    return np.asarray(np.min(list(envelopes.values()), axis=0))


def _count(steps: Array) -> int | None:
    return int(steps[0]) if np.isfinite(steps[0]) else None


def _finite(seconds: Array) -> float | None:
    return float(seconds[0]) if np.isfinite(seconds[0]) else None
