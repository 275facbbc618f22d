"""Small plots written directly as SVG, so that hundreds of curves stay a light page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tasks.benchmark.figures.metrics import Array
from tasks.benchmark.report.plots import tenths


@dataclass(frozen=True)
class Scale:
    """Where on a page values lie, in pixels.

    Attributes:
        low: Value at ``start``.
        high: Value at ``end``.
        start: Pixel.
        end: Pixel.
        log: Whether the scale is logarithmic; both values are then positive.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values: Array) -> Array:
        """Pixels of values; those outside lie outside, at most one length away."""
        low, high, these = self.low, self.high, np.asarray(values, np.float64)
        if self.log:
            low, high, these = np.log(low), np.log(high), np.log(np.maximum(these, self.low * 1e-9))
        share = np.clip((these - low) / ((high - low) or 1.0), -1.0, 2.0)
        return np.asarray(self.start + share * (self.end - self.start))


def path_of(points: Array, *, closed: bool = False) -> str:
    """The ``d`` of a path through points in pixels, ``[N, 2]``, to a tenth; what repeats is left out."""
    rounded = np.rint(10 * np.asarray(points)).astype(int)
    if not len(rounded):
        return ""
    (x, y), moves = rounded[0], np.diff(rounded, axis=0)
    steps = "".join(f"l{tenths(a)} {tenths(b)}".replace(" -", "-") for a, b in moves.tolist() if a or b)
    return f"M{tenths(int(x))} {tenths(int(y))}{steps}{'z' if closed else ''}"


def strokes(color: str, lines: Iterable[str]) -> str:
    """Lines of one colour.

    Args:
        color: As CSS takes it.
        lines: From `line` and `cross`.
    """
    return f'<g fill="none" stroke-linejoin="round" style="stroke:{color}">{"".join(lines)}</g>'


def line(points: Array, *, width: float, dash: Iterable[float] = (), opacity: float = 1.0) -> str:
    """A line through points in pixels, ``[N, 2]``.

    Args:
        points: Where.
        width: In pixels.
        dash: Strokes and gaps in units of the width.
        opacity: In 0..1.
    """
    dashes = " ".join(f"{width * part:.3g}" for part in dash)
    style = f' stroke-width="{width:g}"'
    style += f' stroke-dasharray="{dashes}"' if dashes else ""
    style += f' opacity="{opacity:.2g}"' if opacity < 1 else ""
    return f'<path d="{path_of(points)}"{style}/>'


def cross(x: float, y: float) -> str:
    """A small cross at a pixel."""
    return f'<path d="M{x - 2.5:.1f} {y - 2.5:.1f}l5 5m0-5l-5 5" stroke-width="1.3"/>'


def text(x: float, y: float, words: str, *, anchor: str = "start", size: float = 12) -> str:
    """Plain muted text at a pixel of its baseline; it holds no markup."""
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size:g}"'
    return f'<text class="faint" {place}>{words}</text>'
