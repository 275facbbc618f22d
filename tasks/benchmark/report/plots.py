"""Figures in the house style, drawn once and shown as PNG and as SVG that follows a page's colours."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from tasks.benchmark.figures.metrics import Array
from tasks.benchmark.report.palette import GRID, INK, LIGHT, MUTED, SURFACE

WIDTH, HEIGHT, LINE = 4.7, 2.9, 0.19  # inches
LABEL_SIZE, LABEL_HEIGHT = 9.5, 0.15  # points, inches
MARGINS = 0.8  # inches above and below the axes
LETTERS = 52  # of the labels of one line of a legend
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
    figure, (axes,) = new_row([title], width=width, height=height)
    return figure, axes


def new_row(titles: Sequence[str], *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Empty plots in the house style, side by side.

    Args:
        titles: Above each of the axes, left.
        width: Of them all, in inches.
        height: In inches.

    Returns:
        The figure, and its axes from left to right.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        row = [figure.add_subplot(1, len(titles), column + 1) for column in range(len(titles))]
        for axes, title in zip(row, titles, strict=True):
            axes.set_title(title)
    return figure, row


def png(figure: Figure) -> bytes:
    """The figure as a PNG file in the light colours, with a margin, which a page gives by itself."""
    margin = {"bbox_inches": "tight", "pad_inches": 0.12}
    return _saved(figure, format="png", dpi=160, metadata={"Software": None}, **margin)


def inline_svg(figure: Figure, label: str = "") -> str:
    """The figure as an SVG element for a page: text stays text, palette colours follow light and dark.

    Args:
        figure: Its colours are the palette's.
        label: What it shows, for those who cannot see it; empty if the text around says so.
    """
    svg = _saved(figure, format="svg", transparent=True, metadata={"Date": None, "Creator": None}).decode()
    svg = " ".join(svg[svg.index("<svg") :].split())
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg)
    svg = re.sub(r' xmlns(?::\w+)?="[^"]*"| version="[^"]*"| id="[\w.]+_\d+"', "", svg)
    svg = re.sub(r'^<svg width="[^"]*" height="[^"]*"', f"<svg role='img'{_aria(label)}", svg)
    svg = re.sub(r"; font-family: [^;\"]*", "", svg).replace("xlink:href", "href")
    svg = re.sub(r' d="(M[^"]*)"', lambda found: f' d="{_shortened(found[1])}"', svg)
    svg = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", svg)
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{mark}-", svg)
    for name, color in LIGHT.items():
        svg = svg.replace(color, f"var(--{name})")
    return re.sub(r"> +<", "><", svg)


def legend_below(axes: Axes, columns: int = 2) -> None:
    """The legend under the axes, in a figure that grows with it, or the reason for its lack.

    Args:
        axes: With labelled lines.
        columns: At most; one where a label is long.
    """
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    if not handles:
        axes.text(0.5, 0.5, "no run finished", transform=axes.transAxes, ha="center", color=MUTED)
        return
    widest = max(map(len, labels))
    columns = max(count for count in range(1, columns + 1) if count == 1 or widest <= LETTERS // count)
    columns = min(len(handles), columns)
    figure.set_figheight(figure.get_figheight() + LINE * math.ceil(len(handles) / columns))
    with mpl.rc_context(_STYLE):
        figure.legend(handles, labels, loc="outside lower left", ncols=columns)


class LineEnd(NamedTuple):
    """Where a line ends on the right, and what it is called there."""

    x: float
    y: float
    name: str
    color: str
    bold: bool = False


def label_ends(axes: Axes, ends: Sequence[LineEnd]) -> None:
    """Name lines at the right edge of the axes, without overlap, and lead on to there those that end before.

    Args:
        axes: Of the lines, with limits that are final.
        ends: Of the lines; one that is not a number has no name.
    """
    left, right = axes.get_xlim()
    for end in ends:
        axes.plot([end.x, right], [end.y, end.y], color=end.color, linewidth=0.6, linestyle=":", alpha=0.6)
    axes.set_xlim(left, right)
    to_axes = axes.transData + axes.transAxes.inverted()
    with np.errstate(divide="ignore", invalid="ignore"):
        heights = [float(to_axes.transform((1.0, end.y))[1]) for end in ends]
    known = sorted(
        (min(max(height, 0.0), 1.0), k) for k, height in enumerate(heights) if not math.isnan(height)
    )
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    room = MARGINS + LABEL_HEIGHT * len(known)
    figure.set_figheight(max(figure.get_figheight(), room))
    places = spread([height for height, _ in known], LABEL_HEIGHT / (figure.get_figheight() - MARGINS))
    for place, (height, k) in zip(places, known, strict=True):
        end = ends[k]
        axes.annotate(
            end.name,
            (1.0, height),
            (1.035, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=end.color,
            fontsize=LABEL_SIZE,
            fontweight="bold" if end.bold else "normal",
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": end.color,
                "linewidth": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def spread(places: Sequence[float], gap: float, low: float = 0.0, high: float = 1.05) -> list[float]:
    """Move numbers as little as possible, in squares, until neighbours are a gap apart, and within bounds.

    Args:
        places: Rising.
        gap: Least distance.
        low: Least of the results, unless there are too many for it.
        high: Largest.
    """
    groups: list[tuple[float, int]] = []  # mean of place minus its rank times the gap, and how many
    for rank, place in enumerate(places):
        mean, count = place - rank * gap, 1
        while groups and groups[-1][0] >= mean:
            other, size = groups.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        groups.append((mean, count))
    means = [mean for mean, count in groups for _ in range(count)]
    last = high - gap * (len(places) - 1)  # of the lowest, in the same units as the means
    return [min(max(mean, low), last) + rank * gap for rank, mean in enumerate(means)]


def log_if_wide(axes: Axes) -> None:
    """Logarithmic losses where they are positive and span more than a factor of ten."""
    drawn: Sequence[Array] = [np.asarray(line.get_ydata(), np.float64) for line in axes.get_lines()]
    values = np.concatenate([[np.nan], *drawn])
    if is_wide(values):
        log_losses(axes, float(np.nanmin(values)), float(np.nanmax(values)))


def log_losses(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis upwards, with plain numbers at 1, 2 and 5 where there would be few powers of ten.

    Args:
        axes: Of the losses.
        low: Lowest that is drawn, positive.
        high: Highest.
    """
    axes.set_yscale("log")
    if high < 100 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def is_wide(values: Array) -> bool:
    """Whether those that are finite are positive and span more than a factor of ten."""
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() > 10 * values.min())


def tenths(number: int) -> str:
    """A number of tenths as a decimal fraction, as short as SVG takes it, such as ``-.5`` or ``12``."""
    return re.sub(r"(?<!\d)0\.", ".", f"{number / 10:.10g}")


def _saved(figure: Figure, **options: Any) -> bytes:
    """A file of the figure, whose layout is final from then on, since to find it takes as long as to draw."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, **options)
    figure.set_layout_engine("none")
    return buffer.getvalue()


def _aria(label: str) -> str:
    plain = re.sub(r"[<>&\"']", " ", label)
    return f" aria-label='{plain}'" if plain else ""


def _shortened(path: str) -> str:
    """A path of straight lines in steps of a tenth of a point from corner to corner; others as they are."""
    commands = re.findall(r"([A-Za-z])([^A-Za-z]*)", path)
    if {name for name, _ in commands} - set("MLz"):
        return path
    parts, x, y = [], 0, 0
    for name, numbers in commands:
        if name == "z":
            parts.append("z")
            continue
        to_x, to_y = (round(10 * float(number)) for number in numbers.split())
        if name == "M":
            parts.append(f"M{tenths(to_x)} {tenths(to_y)}")
        elif (to_x, to_y) != (x, y):
            parts.append(f"l{tenths(to_x - x)} {tenths(to_y - y)}".replace(" -", "-"))
        x, y = to_x, to_y
    return "".join(parts)
