"""Learning rates that are usual for well-known optimizers."""

from __future__ import annotations


def usual_rates(name: str, default: float | None) -> tuple[float, float]:
    """Default and centre."""
    default = default or 1e-3
    return default, 10 * default
