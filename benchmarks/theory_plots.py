"""Plots of `benchmarks/theory.py`."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.position_estimates import FEATURES, SYSTEMS, UNIFORM_COUNT, UNIFORM_LENGTH, Findings
from tasks.benchmark.report.palette import REFERENCE, SERIES
from tasks.benchmark.report.plots import new_figure, new_row

WIDTH, HEIGHT = 9.4, 3.9


def logarithmic(axes: Axes, *, base: int = 10) -> None:
    """Make both axes logarithmic, with plain numbers below."""
    axes.set_xscale("log", base=base)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")


def mask_plot(findings: Findings) -> Figure:
    """Error against r, and variance against the lag."""
    titles = ("error of N, measured and predicted", "variance of N, measured and predicted")
    figure, (left, right) = new_row(titles, width=WIDTH, height=HEIGHT)
    for color, system in zip(SERIES, SYSTEMS, strict=False):
        rows = [row for row in findings.errors if row.system == system.name]
        measured: dict[str, Any] = {"color": color, "marker": "o", "markersize": 3.5, "label": system.name}
        measured |= {"linestyle": "none"} if system.nodes else {"linewidth": 1.0}
        left.plot([row.count for row in rows], [row.error for row in rows], **measured)
        lags = [row for row in findings.variances if row.system == system.name]
        if system.nodes is not None:
            expected = [row.predicted or math.nan for row in rows]
            left.plot([row.count for row in rows], expected, color=color, linewidth=1.2)
            expected = [row.predicted or math.nan for row in lags]
            right.plot([row.lag for row in lags], expected, color=color, linewidth=1.2)
            right.plot(
                [row.lag for row in lags],
                [row.measured for row in lags],
                color=color,
                marker="o",
                markersize=3.5,
                linestyle="none",
            )
    logarithmic(left, base=2)
    left.set_xlabel("Fourier samples r")
    left.set_ylabel("root mean square error")
    right.set_xlabel("lag, tokens")
    right.set_ylabel("r × variance")
    right.set_ylim(bottom=0)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def uniform_plot(findings: Findings) -> Figure:
    """Largest error against r and against L, with the bound."""
    titles = (f"largest error, L = {UNIFORM_LENGTH}", f"largest error, r = {UNIFORM_COUNT}")
    figure, (left, right) = new_row(titles, width=WIDTH, height=HEIGHT)
    panels = ((left, "count", "length", UNIFORM_LENGTH), (right, "length", "count", UNIFORM_COUNT))
    for axes, axis, other, fixed in panels:
        for color, name in ((SERIES[0], "mixture"), (SERIES[3], "triangle")):
            found = [row for row in findings.uniform if row.system == name and getattr(row, other) == fixed]
            rows = sorted(found, key=lambda row, axis=axis: getattr(row, axis))
            at = [getattr(row, axis) for row in rows]
            quantile = [row.quantile for row in rows]
            axes.plot(at, quantile, color=color, marker="o", markersize=4, label=f"{name}, 95 %")
            axes.plot(at, [row.mean for row in rows], color=color, linestyle=":", label=f"{name}, mean")
        axes.plot(
            at, [row.bound for row in rows], color=REFERENCE, linestyle=(0, (5, 1.6)), label="bound, 95 %"
        )
        logarithmic(axes, base=2)
    left.set_xlabel("Fourier samples r")
    left.set_ylabel("largest |N − f| of any lag")
    right.set_xlabel("length L, tokens")
    right.set_yscale("linear")
    right.set_ylim(bottom=0)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return figure


def amplitude_plot(findings: Findings) -> Figure:
    """Noise of positive features against the amplitude."""
    figure, axes = new_figure("noise of positive features at lag 0", width=5.6, height=3.6)
    for color, features in zip(SERIES, FEATURES, strict=False):
        rows = [row for row in findings.amplitudes if row.features == features]
        at = [row.amplitude for row in rows]
        measured = {"independent": [r.measured for r in rows], "orthogonal": [r.orthogonal for r in rows]}
        axes.plot(at, [r.predicted for r in rows], color=color, linewidth=1.2, label=f"law, m = {features}")
        for shape, (name, values) in zip("o^", measured.items(), strict=True):
            style: dict[str, Any] = {"color": color, "marker": shape, "markersize": 4.5, "linestyle": "none"}
            axes.plot(at, values, label=f"{name} rows, m = {features}", **style)
    axes.axvline(0.5, color=REFERENCE, linestyle=(0, (5, 1.6)), linewidth=1.0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("amplitude G of a head")
    axes.set_ylabel("relative standard deviation")
    axes.legend(loc="upper left", frameon=False)
    return figure
