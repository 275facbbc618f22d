"""Plots of one task: training curves and the effect of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.benchmark.figures.metrics import Array
from tasks.benchmark.figures.summary import Summary, curves_of
from tasks.benchmark.report.looks import DEFAULT_DASH, Look, looks_of
from tasks.benchmark.report.palette import GRID, MUTED
from tasks.benchmark.report.plots import (
    HEIGHT,
    LineEnd,
    is_wide,
    label_ends,
    legend_below,
    log_if_wide,
    log_losses,
    new_figure,
)
from tasks.benchmark.results import Results
from tasks.benchmark.running.cell import CellResult

CURVE_POINTS = 120
CURVE_HEIGHT = HEIGHT + 0.3  # inches
NAME = 18  # longest name beside a line, in letters
UNFINISHED = 0.2  # share of the height of a sensitivity plot that is kept for settings that did not finish
SINGLE_RATE = 3.0  # factor from a learning rate that stands alone to either end of its axis
Setting = tuple[str, str, float]  # optimizer, schedule, learning rate


def runs_by_setting(results: Results, task: str) -> dict[Setting, list[CellResult]]:
    """All runs on a task by their setting, seeds in rising order."""
    groups: dict[Setting, list[CellResult]] = {}
    for run in results.cells:
        if run.cell.task == task:
            key = (run.cell.optimizer, run.cell.schedule, run.cell.learning_rate)
            groups.setdefault(key, []).append(run)
    return {key: sorted(group, key=lambda run: run.cell.seed) for key, group in groups.items()}


def shown_curves(results: Results, task: str) -> list[Summary]:
    """The settings whose curves a page shows: the best of each optimizer, and a learned one's default."""
    return [
        summary
        for summary in results.summaries
        if summary.task == task
        and summary.schedule is not None
        and (summary.choice == "tuned" or results.settings.entry(summary.optimizer).kind == "learned")
    ]


def curve_plot(results: Results, task: str, *, seconds: bool = False) -> Figure:
    """Training loss of the best setting of each optimizer, and of a learned one's default, over steps.

    Lines are smoothed means over seeds, bands run from the lowest to the highest seed.

    Args:
        results: What to draw.
        task: Name of the task.
        seconds: Draw over the training time of those steps, run alone on one thread. Optimizers that were
            not timed are left out.
    """
    figure, axes = new_figure(task, height=CURVE_HEIGHT)
    groups, looks = runs_by_setting(results, task), looks_of(results.settings)
    ends = []
    for summary in shown_curves(results, task):
        timing = results.timings.get((task, summary.optimizer))
        if seconds and timing is None:
            continue
        assert summary.schedule
        assert summary.learning_rate
        curves = curves_of(groups[summary.optimizer, summary.schedule, summary.learning_rate])
        look, default = looks[summary.optimizer], summary.choice == "default"
        unit = timing.training_seconds if seconds and timing else 1.0
        mean = _draw_curves(axes, curves, look, unit, default=default)
        last = curves.shape[-1] * unit
        name = _name(results, summary)
        ends.append(LineEnd(last, float(mean[-1]), name, look.color, look.learned and not default))
    axes.set_xlabel("seconds of one thread, alone" if seconds else "step")
    axes.set_ylabel("training loss")
    if not ends:
        axes.text(0.5, 0.5, "no run finished", transform=axes.transAxes, ha="center", color=MUTED)
        return figure
    _limit(axes)
    label_ends(axes, ends)
    return figure


def sensitivity_plot(results: Results, task: str) -> Figure:
    """Final training loss over the learning rate, at the schedule of each optimizer's tuned setting.

    A ring marks that setting; settings that diverged, failed or ended above the start are crosses on top.
    """
    figure, axes = new_figure(task, height=CURVE_HEIGHT)
    groups, looks = runs_by_setting(results, task), looks_of(results.settings)
    ceiling = highest_start(results, task)
    crosses: list[tuple[Array, str]] = []
    for entry in results.settings.entries:
        summary, look = results.summary(task, entry.name), looks[entry.name]
        schedule = (summary and summary.schedule) or results.settings.schedules[0]
        rates, losses = final_losses(groups, entry.name, schedule)
        finished = np.isfinite(losses)
        shown = finished & (losses <= ceiling)
        crosses.append((rates[~shown], look.color))
        axes.plot(
            rates,
            np.where(shown, losses, np.nan),
            color=look.color,
            linestyle=look.style,
            linewidth=look.width,
            marker=look.marker,
            markersize=4,
            zorder=look.order,
            label=entry.label if finished.any() else f"{entry.label} (none finished)",
        )
        if summary and summary.learning_rate and summary.final_loss:
            size = 10 if look.learned else 8
            axes.plot(
                summary.learning_rate,
                summary.final_loss.value,
                "o",
                color=look.color,
                fillstyle="none",
                markersize=size,
                markeredgewidth=1.4,
                zorder=look.order,
            )
    axes.set_xscale("log")
    tried = {rate for entry in results.settings.entries for rate in results.settings.rates(entry)}
    if len(tried) == 1:
        axes.set_xlim(min(tried) / SINGLE_RATE, min(tried) * SINGLE_RATE)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("final training loss")
    log_if_wide(axes)
    _draw_crosses(axes, crosses)
    legend_below(axes, columns=2 if len(results.settings.entries) < 5 else 3)
    return figure


def final_losses(
    groups: Mapping[Setting, Sequence[CellResult]], optimizer: str, schedule: str
) -> tuple[Array, Array]:
    """Learning rates of an optimizer, rising, and the mean final loss at each, infinite where unfinished."""
    found = sorted(
        (rate, float(np.mean([run.final_loss for run in runs])))
        for (name, at, rate), runs in groups.items()
        if (name, at) == (optimizer, schedule)
    )
    pairs = np.array(found, dtype=np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def highest_start(results: Results, task: str) -> float:
    """The highest loss at which a run on a task starts; infinite if none did."""
    first = [float(run.curve[0]) for run in results.cells if run.cell.task == task and len(run.curve)]
    finite = [loss for loss in first if math.isfinite(loss)]
    return max(finite, default=math.inf)


def _draw_curves(axes: Axes, curves: Array, look: Look, unit: float, *, default: bool) -> Array:
    """A line and its band from ``[S, T]``; returns the mean."""
    steps = np.unique(np.linspace(0, curves.shape[-1] - 1, CURVE_POINTS).round().astype(int))
    mean, time = curves.mean(0), (steps + 1) * unit
    style = (0.0, DEFAULT_DASH) if default else look.style
    width = 1.5 if default else look.width
    axes.plot(time, mean[steps], color=look.color, linestyle=style, linewidth=width, zorder=look.order)
    if len(curves) > 1:
        low, high = curves.min(0)[steps], curves.max(0)[steps]
        alpha = 0.2 if look.learned and not default else 0.06
        axes.fill_between(time, low, high, color=look.color, alpha=alpha, linewidth=0, zorder=1)
    return np.asarray(mean)


def _limit(axes: Axes) -> None:
    """Let the axes end with the lines; what rises above where it began leaves the picture."""
    lines = [np.asarray(line.get_ydata(), np.float64) for line in axes.get_lines()]
    last = max(float(np.asarray(line.get_xdata())[-1]) for line in axes.get_lines())
    low = min(float(line.min()) for line in lines)
    high = max(float(line[0]) for line in lines)
    axes.set_xlim(0, last)
    if is_wide(np.array([low, high])):
        log_losses(axes, low, high)
        axes.set_ylim(low / (high / low) ** 0.03, high * (high / low) ** 0.03)
    elif low < high:
        axes.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))


def _draw_crosses(axes: Axes, crosses: Sequence[tuple[Array, str]]) -> None:
    """A lane for every optimizer above the lines, with a cross for each learning rate that did not finish."""
    if not any(len(rates) for rates, _ in crosses):
        return
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        axes.set_ylim(low, low * (high / low) ** (1 / (1 - UNFINISHED)))
    else:
        axes.set_ylim(low, low + (high - low) / (1 - UNFINISHED))
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
    axes.axhline(high, color=GRID, linewidth=1.2, zorder=1)
    lanes = np.linspace(1 - UNFINISHED, 1.0, len(crosses) + 2)[1:-1]
    for lane, (rates, color) in zip(lanes, crosses, strict=True):
        axes.plot(
            rates,
            np.full(len(rates), lane),
            "x",
            color=color,
            markersize=4,
            markeredgewidth=1.2,
            transform=axes.get_xaxis_transform(),
        )


def _name(results: Results, summary: Summary) -> str:
    label = results.settings.entry(summary.optimizer).label
    ending = " default" if summary.choice == "default" else ""
    room = NAME - len(ending)
    return (label if len(label) <= room else f"{label[: room - 1]}…") + ending
