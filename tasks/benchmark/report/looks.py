"""How an optimizer looks: one colour, dash and marker in every plot and table of a page."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.benchmark.report.palette import REFERENCE, SERIES, css_color
from tasks.benchmark.settings import Settings

DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.6), (1.3, 1.3), (6, 1.5, 1.3, 1.5))
DEFAULT_DASH = (2.2, 1.1)
"""Dash of a learned optimizer at its default learning rate."""

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "*")
LEARNED_WIDTH, WIDTH = 2.6, 1.5  # points
SWATCH = 26  # pixels


@dataclass(frozen=True)
class Look:
    """How one optimizer is drawn.

    Attributes:
        color: Of the light palette.
        dash: Lengths of strokes and gaps in units of the line's width; empty for a solid line.
        marker: As matplotlib names it.
        learned: Whether it is drawn with emphasis: wider, and above the others.
    """

    color: str
    dash: tuple[float, ...]
    marker: str
    learned: bool

    @property
    def width(self) -> float:
        """Of its line, in points."""
        return LEARNED_WIDTH if self.learned else WIDTH

    @property
    def order(self) -> float:
        """Height above the axes among the lines: learned optimizers hide others, not the reverse."""
        return 3.0 if self.learned else 2.0

    @property
    def style(self) -> tuple[float, tuple[float, ...]] | str:
        """The dash as matplotlib takes it."""
        return (0.0, self.dash) if self.dash else "-"

    def swatch(self, *, default: bool = False) -> str:
        """A short piece of its line as an inline SVG element that follows light and dark.

        Args:
            default: At its default learning rate, where only a learned optimizer has a line.
        """
        if default and not self.learned:
            return '<svg class="swatch" aria-hidden="true"></svg>'
        width = 3 if self.learned and not default else 2
        dash = " ".join(f"{width * part:.3g}" for part in (DEFAULT_DASH if default else self.dash)) or "none"
        return (
            f'<svg class="swatch" viewBox="0 0 {SWATCH} 8" aria-hidden="true"><path d="M1 4H{SWATCH - 1}" '
            f'style="stroke:{css_color(self.color)};stroke-width:{width};stroke-dasharray:{dash}"/></svg>'
        )


def looks_of(settings: Settings) -> dict[str, Look]:
    """The look of every entry by its name: references are grey, learned ones solid, others a hue and a dash.

    With more entries than hues, those of the others come back with another dash.
    """
    found: dict[str, Look] = {}
    references = [entry for entry in settings.entries if entry.name in settings.references]
    for k, entry in enumerate(references):
        found[entry.name] = Look(REFERENCE, DASHES[k % len(DASHES)], MARKERS[k % len(MARKERS)], False)
    others = [entry for entry in settings.entries if entry.name not in found]
    learned = [entry for entry in others if entry.kind == "learned"]
    for k, entry in enumerate(learned):
        hue, turn = k % len(SERIES), k // len(SERIES)
        found[entry.name] = Look(SERIES[hue], DASHES[turn % len(DASHES)], MARKERS[k % len(MARKERS)], True)
    hues = SERIES[len(learned) :] or SERIES
    for k, entry in enumerate(entry for entry in others if entry.kind != "learned"):
        dash = DASHES[(k % len(hues) + k // len(hues)) % len(DASHES)]
        marker = MARKERS[(k + len(learned) + len(references)) % len(MARKERS)]
        found[entry.name] = Look(hues[k % len(hues)], dash, marker, False)
    return found
