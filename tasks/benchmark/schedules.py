"""Learning-rate schedules of the benchmark: a factor for every step, the same for all optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable

from tasks.registry import choose

Schedule = Callable[[int, int], float]
WARMUP = 0.05


def constant(step: int, steps: int) -> float:
    """The learning rate as given."""
    return 1.0


def cosine(step: float, steps: float) -> float:
    """Half a cosine from 1 at the first step towards 0 after the last."""
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))


def warmup_cosine(step: int, steps: int) -> float:
    """A linear rise over the first `WARMUP` share of the steps, then half a cosine towards 0."""
    warmup = math.ceil(WARMUP * steps)
    if step < warmup:
        return (step + 1) / warmup
    return cosine(step - warmup, steps - warmup)


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "warmup-cosine": warmup_cosine}


def schedule_factors(name: str, steps: int) -> list[float]:
    """Factors of the learning rate for a whole run.

    Args:
        name: A key of `SCHEDULES`.
        steps: Length of the run, at least 1.

    Returns:
        ``steps`` factors, dimensionless, in [0, 1].

    Raises:
        ValueError: If the name is unknown; the message lists the valid ones.
    """
    schedule = choose("schedule", name, SCHEDULES)
    return [schedule(step, steps) for step in range(steps)]
