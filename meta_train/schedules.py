"""How the settings of the outer loop change over a run; all depend on the outer step alone."""

from tasks.benchmark.schedules import cosine as half_cosine

WARMUP = 0.02
"""Share of the run in which the outer learning rate rises."""


def cosine(progress: float, *, end: float) -> float:
    """Half a cosine from 1 at progress 0 to ``end`` at progress 1."""
    return end + (1 - end) * half_cosine(min(max(progress, 0.0), 1.0), 1.0)


def outer_rate(step: int, total: int, *, end: float = 0.05) -> float:
    """Factor on the outer learning rate: linear warm-up times `cosine`."""
    return min(1.0, (step + 1) / max(1.0, WARMUP * total)) * cosine(step / total, end=end)


def longest_horizon(step: int, total: int, horizon: tuple[int, int], *, growth: float) -> int:
    """Longest episode that may begin now: it grows in equal ratios.

    Args:
        step: Outer steps done.
        total: Outer steps in all.
        horizon: Shortest and longest episode.
        growth: Share of the run in which the longest grows from the shortest; 0 for none.
    """
    low, high = horizon
    share = min(1.0, step / (growth * total)) if growth > 0 else 1.0
    return round(low * float((high / low) ** share))


def imitation_weight(step: int, *, weight: float, steps: int) -> float:
    """Weight of the imitation of the expert: it falls linearly to 0 over the first ``steps`` outer steps."""
    return weight * max(0.0, 1.0 - step / steps) if steps else 0.0
