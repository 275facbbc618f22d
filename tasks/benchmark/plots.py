"""Plots of a benchmark, each drawn once and shown both as PNG and as SVG that follows the page's colours."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.benchmark.metrics import Array
from tasks.benchmark.palette import GRID, INK, LIGHT, MUTED, REFERENCE, SERIES, SURFACE
from tasks.benchmark.results import Results
from tasks.benchmark.summary import Summary, curves_of

WIDTH, HEIGHT, LINE = 4.7, 2.9, 0.19  # inches
POINTS = 200
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_STYLE: Any = {
    "font.size": 10.5,
    "font.family": "sans-serif",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.labelcolor": INK,
    "lines.linewidth": 2.0,
    "figure.facecolor": SURFACE,
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "learned-opt",
    "path.simplify_threshold": 0.5,
}


def new_figure(title: str = "", *, width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty plot in the house style.

    Args:
        title: Above the axes, left.
        width: In inches; the page scales figures to its columns, and their text with them.
        height: In inches.

    Returns:
        The figure and its axes; take line colours from `palette.SERIES` and `palette.REFERENCE`.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The figure as a PNG file in the light colours."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def inline_svg(figure: Figure) -> str:
    """The figure as an SVG element for a page: text stays text, palette colours follow light and dark."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = " ".join(svg[svg.index("<svg") :].split())
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg)
    svg = re.sub(r' xmlns(?::\w+)?="[^"]*"| version="[^"]*"| id="[\w.]+_\d+"', "", svg)
    svg = re.sub(r'^<svg width="[^"]*" height="[^"]*"', "<svg role='img'", svg)
    svg = re.sub(r"; font-family: [^;\"]*", "", svg).replace("xlink:href", "href")
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{mark}-", svg)
    for name, color in LIGHT.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg


def curve_plot(results: Results, task: str) -> Figure:
    """Training loss of the best setting of each optimizer, and of a learned one's default, over steps.

    Lines are smoothed means over seeds, bands run from the lowest to the highest seed.
    """
    figure, axes = new_figure(task)
    drawn = [
        summary for summary in results.summaries if summary.task == task and _shows_curve(results, summary)
    ]
    for summary in drawn:
        assert summary.schedule
        assert summary.learning_rate
        curves = curves_of(results.runs(task, summary.optimizer, summary.schedule, summary.learning_rate))
        steps = np.unique(np.linspace(0, curves.shape[-1] - 1, POINTS).round().astype(int))
        color = color_of(results, summary.optimizer)
        dash = DASHES[1] if summary.choice == "default" else DASHES[0]
        axes.plot(
            steps + 1, curves.mean(0)[steps], color=color, linestyle=dash, label=_legend(results, summary)
        )
        if len(curves) > 1:
            axes.fill_between(
                steps + 1, curves.min(0)[steps], curves.max(0)[steps], color=color, alpha=0.16, linewidth=0
            )
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    _log_if_wide(axes)
    legend_below(axes)
    return figure


def sensitivity_plot(results: Results, task: str) -> Figure:
    """Final training loss over the learning rate; crosses at the top diverged or ended above the start."""
    figure, axes = new_figure(task)
    settings = results.settings
    ceiling = _ceiling(results, task)
    for entry in settings.entries:
        for schedule, dash in zip(settings.schedules, DASHES, strict=False):
            rates = np.array(settings.rates(entry))
            groups = [results.runs(task, entry.name, schedule, rate) for rate in rates]
            losses = np.array([np.mean([run.final_loss for run in group]) for group in groups])
            shown = losses <= ceiling
            color = color_of(results, entry.name)
            label = entry.label if len(settings.schedules) == 1 else f"{entry.label}, {schedule}"
            axes.plot(
                rates,
                np.where(shown, losses, np.nan),
                color=color,
                linestyle=dash,
                marker="o",
                markersize=4,
                label=label if shown.any() else None,
            )
            axes.plot(rates[~shown], np.full((~shown).sum(), ceiling), "x", color=color, markersize=6)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("final training loss")
    _log_if_wide(axes)
    legend_below(axes)
    return figure


def legend_below(axes: Axes) -> None:
    """The legend under the axes, in a figure that grows with it, or the reason for its lack."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    if not handles:
        axes.text(0.5, 0.5, "no run finished", transform=axes.transAxes, ha="center", color=MUTED)
        return
    columns = 2 if len(handles) > 1 and max(map(len, labels)) <= 24 else 1
    figure.set_figheight(HEIGHT + LINE * math.ceil(len(handles) / columns))
    with mpl.rc_context(_STYLE):
        figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def color_of(results: Results, optimizer: str) -> str:
    """The colour of an optimizer in every plot: grey for the first reference, a hue for each other."""
    references = results.settings.references[:1]
    if optimizer in references:
        return REFERENCE
    others = [entry.name for entry in results.settings.entries if entry.name not in references]
    return SERIES[others.index(optimizer) % len(SERIES)]


def _shows_curve(results: Results, summary: Summary) -> bool:
    learned = results.settings.entry(summary.optimizer).kind == "learned"
    return summary.schedule is not None and (summary.choice == "tuned" or learned)


def _legend(results: Results, summary: Summary) -> str:
    label = results.settings.entry(summary.optimizer).label
    kind = "default lr" if summary.choice == "default" else "lr"
    return f"{label}, {kind} {summary.learning_rate:.3g}, {summary.schedule}"


def _ceiling(results: Results, task: str) -> float:
    """Top of the sensitivity plot: the highest loss at which a run starts."""
    first = [float(run.curve[0]) for run in results.cells if run.cell.task == task and len(run.curve)]
    finite = [loss for loss in first if math.isfinite(loss)]
    return max(finite, default=math.inf)


def _log_if_wide(axes: Axes) -> None:
    """Logarithmic losses where they are positive and span more than a factor of ten."""
    drawn: Sequence[Array] = [np.asarray(line.get_ydata(), np.float64) for line in axes.get_lines()]
    values = np.concatenate([[np.nan], *drawn])
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
