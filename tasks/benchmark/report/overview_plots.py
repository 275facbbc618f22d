"""Plots over all tasks: speed-ups in steps and by the clock, and performance profiles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from tasks.benchmark.figures.metrics import Interval
from tasks.benchmark.figures.summary import Choice, Headline, Summary
from tasks.benchmark.report.looks import Look, looks_of
from tasks.benchmark.report.palette import GRID, MUTED, SURFACE
from tasks.benchmark.report.plots import HEIGHT, LineEnd, label_ends, legend_below, new_figure
from tasks.benchmark.report.tables import relative_step_time, step_time_unit
from tasks.benchmark.results import Results

LANE, MARGIN, FRAME = 0.078, 0.1, 0.75  # inches: an optimizer, around a task, and around the axes
ALL = "all tasks"
LONG = 5  # rows, above which factors stand at the top too
LIMITS = (0.05, 20.0)  # least and largest factor that is drawn where it is


def speedup_plot(results: Results, *, clock: bool = False) -> Figure:
    """Speed-up over the references by task, with intervals; the first row is the aggregate over tasks.

    Filled marks are tuned settings, hollow ones a learned optimizer at its default learning rate, crosses at
    the left edge have no speed-up.

    Args:
        results: What to draw.
        clock: Draw wall-clock speed-ups in place of those in steps.
    """
    rows = ([ALL] if len(results.tasks) > 1 else []) + list(results.tasks)
    lanes = _lanes(results)
    step = LANE * len(lanes) + MARGIN
    figure, axes = new_figure(
        "Speed-up by the clock" if clock else "Speed-up in steps", height=FRAME + step * len(rows)
    )
    looks = looks_of(results.settings)
    low, high = _range([figure for row in rows for figure in _speedups(results, row, clock)])
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    for row, name in enumerate(rows):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.35, linewidth=0, zorder=0)
        for lane, (optimizer, choice) in enumerate(lanes):
            height = row - 0.5 + (MARGIN / 2 + LANE * (lane + 0.5)) / step
            speedup = _speedup(results, name, optimizer, choice, clock)
            _draw_dot(axes, speedup, height, looks[optimizer], choice)
    axes.axvline(1, color=MUTED, linewidth=1.2, zorder=1)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labeltop=len(rows) > LONG, length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("times as fast as the references")
    _label_factors(axes.xaxis)
    _name_optimizers(axes, results, lanes, looks)
    return figure


def profile_plot(results: Results) -> Figure:
    """Share of the tasks on which an optimizer needs at most so many times the steps of the fastest."""
    figure, axes = new_figure("Performance profile", height=HEIGHT + 0.3)
    looks = looks_of(results.settings)
    for profile in results.profiles:
        look = looks[profile.optimizer]
        axes.step(
            profile.ratios,
            profile.share,
            where="post",
            color=look.color,
            linestyle=look.style,
            linewidth=look.width,
            zorder=look.order,
            label=results.settings.entry(profile.optimizer).label,
        )
        if profile.low and profile.high:
            alpha = 0.2 if look.learned else 0.07
            axes.fill_between(
                profile.ratios,
                profile.low,
                profile.high,
                step="post",
                color=look.color,
                alpha=alpha,
                linewidth=0,
            )
    axes.set_xscale("log")
    axes.set_xlim(1, max(max(profile.ratios) for profile in results.profiles))
    axes.set_ylim(-0.02, 1.03)
    axes.set_xlabel("times the steps of the fastest optimizer on the task")
    axes.set_ylabel("share of tasks")
    _label_factors(axes.xaxis)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    legend_below(axes, columns=3)
    return figure


def cost_plot(results: Results) -> Figure:
    """Aggregate speed-up in steps, tuned, over the optimizer's own time a step."""
    figure, axes = new_figure("Gain and cost", height=HEIGHT + 0.3)
    unit, ends = step_time_unit(results), []
    assert unit
    for entry in results.settings.entries:
        cost = relative_step_time(results, entry.name)
        found = [line for line in results.headlines if (line.optimizer, line.choice) == (entry.name, "tuned")]
        speedup = found[0].speedup if found else None
        if cost is None or speedup is None:
            continue
        look = looks_of(results.settings)[entry.name]
        if speedup.low is not None and speedup.high is not None:
            axes.plot([cost, cost], [speedup.low, speedup.high], color=look.color, linewidth=1.2)
        axes.plot(cost, speedup.value, look.marker, color=look.color, zorder=3, **_dot(look, "tuned"))
        ends.append(LineEnd(cost, speedup.value, entry.label, look.color, look.learned))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.axhline(1, color=MUTED, linewidth=1.2, zorder=1)
    axes.margins(0.06, 0.1)
    _label_factors(axes.xaxis)
    _label_factors(axes.yaxis)
    axes.set_xlabel(f"the optimizer's own time a step, over {results.settings.entry(unit).label}'s")
    axes.set_ylabel("speed-up in steps")
    label_ends(axes, ends)
    return figure


def _lanes(results: Results) -> list[tuple[str, Choice]]:
    """What has a speed-up, learned optimizers first, each with its default right below."""
    entries = sorted(results.settings.entries, key=lambda entry: entry.kind != "learned")
    present = {(line.optimizer, line.choice) for line in results.headlines}
    choices: tuple[Choice, ...] = ("tuned", "default")
    return [
        (entry.name, choice)
        for entry in entries
        for choice in choices
        if (entry.name, choice) in present and (choice == "tuned" or entry.kind == "learned")
    ]


def _speedup(results: Results, row: str, optimizer: str, choice: Choice, clock: bool) -> Interval | None:
    found: Headline | Summary | None = results.summary(row, optimizer, choice)
    if row == ALL:
        lines = (line for line in results.headlines if (line.optimizer, line.choice) == (optimizer, choice))
        found = next(lines)
    if found is None:
        return None
    return found.wall_speedup if clock else found.speedup


def _speedups(results: Results, row: str, clock: bool) -> list[Interval]:
    found = [_speedup(results, row, optimizer, choice, clock) for optimizer, choice in _lanes(results)]
    return [speedup for speedup in found if speedup]


def _range(speedups: list[Interval]) -> tuple[float, float]:
    """Limits that hold all intervals and 1, but for very long ones."""
    lows = [one.low if one.low is not None else one.value for one in speedups]
    highs = [one.high if one.high is not None else one.value for one in speedups]
    low = max(LIMITS[0], min([0.8, *(0.9 * value for value in lows)]))
    high = min(LIMITS[1], max([1.25, *(1.1 * value for value in highs)]))
    return low, high


def _draw_dot(axes: Axes, speedup: Interval | None, height: float, look: Look, choice: Choice) -> None:
    low, high = axes.get_xlim()
    order = look.order + 1
    if speedup is None:
        axes.plot(low, height, "x", color=look.color, markersize=4, clip_on=False, zorder=order)
        return
    value = min(max(speedup.value, low), high)
    if speedup.low is not None and speedup.high is not None:
        ends = np.clip([speedup.low, speedup.high], low, high)
        width = 2 if look.learned else 1.1
        axes.plot(ends, [height, height], color=look.color, linewidth=width, zorder=order)
    axes.plot(
        value,
        height,
        look.marker,
        color=look.color,
        **_dot(look, choice),
        clip_on=False,
        zorder=order + 0.5,
    )


def _dot(look: Look, choice: Choice) -> dict[str, Any]:
    """Size and filling of a mark."""
    inside = SURFACE if choice == "default" else look.color
    return {"markersize": 6 if look.learned else 4, "markerfacecolor": inside}


def _label_factors(axis: Axis) -> None:
    """Factors of a logarithmic axis as plain numbers, at 1, 2 and 5 where it is short."""
    low, high = sorted(axis.get_view_interval())
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < 10 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs if high / low < 200 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda factor, _: f"{factor:g}×"))
    axis.set_minor_locator(NullLocator())


def _name_optimizers(
    axes: Axes, results: Results, lanes: list[tuple[str, Choice]], looks: dict[str, Look]
) -> None:
    """A legend of the marks under the axes, in the order of the lanes."""
    for optimizer, choice in lanes:
        look, label = looks[optimizer], results.settings.entry(optimizer).label
        axes.plot(
            math.nan,
            math.nan,
            look.marker,
            color=look.color,
            **_dot(look, choice),
            label=label if choice == "tuned" else f"{label}, default",
        )
    if lanes:
        legend_below(axes, columns=3)
