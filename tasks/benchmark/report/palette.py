"""One palette for plots and pages, light and dark, of hues that colour-blind readers can tell apart."""

from __future__ import annotations

INK, MUTED, GRID, SURFACE, GROUND = "#1b1f24", "#5c6570", "#dfe3e8", "#ffffff", "#f5f6f8"
REFERENCE, BAD = "#7a828d", "#b3261e"
SERIES = ("#0072b2", "#d55e00", "#00865f", "#b0528c", "#a97800", "#3a93c9", "#7d5bd0", "#8a6d5a")

LIGHT = {
    "ink": INK,
    "muted": MUTED,
    "grid": GRID,
    "surface": SURFACE,
    "ground": GROUND,
    "reference": REFERENCE,
    "bad": BAD,
    **{f"series-{k}": color for k, color in enumerate(SERIES)},
}
DARK = {
    "ink": "#e8eaed",
    "muted": "#a3abb6",
    "grid": "#333a43",
    "surface": "#1a1e24",
    "ground": "#111418",
    "reference": "#98a1ad",
    "bad": "#ff8a80",
    **{
        f"series-{k}": color
        for k, color in enumerate(
            ("#56b4e9", "#ff9148", "#2fcf9f", "#e79bcb", "#f0c24b", "#9cd3f5", "#b9a2f5", "#cdb19f")
        )
    },
}


def css_variables(colors: dict[str, str]) -> str:
    """The palette as CSS custom properties."""
    return " ".join(f"--{name}: {color};" for name, color in colors.items())


def css_color(color: str) -> str:
    """A colour of the light palette as the custom property that follows light and dark.

    Args:
        color: As in `LIGHT`.

    Returns:
        For example ``var(--series-0)``.

    Raises:
        ValueError: If the palette lacks it.
    """
    for name, known in LIGHT.items():
        if known == color:
            return f"var(--{name})"
    raise ValueError(f"expected a colour of the palette, got {color!r}")
