"""Learning rates over a run."""

from dataclasses import dataclass

from tasks.benchmark.schedules import cosine


@dataclass(frozen=True)
class Schedule:
    """Learning rates relative to the peak: a linear warm-up, then half a cosine or a constant.

    Args:
        total: Steps in all.
        warmup: Steps of the warm-up.
        cosine: Whether it then falls.
        start: From where the warm-up rises.
        floor: To where the cosine falls.
    """

    total: int
    warmup: int
    cosine: bool
    start: float = 0.0
    floor: float = 0.0

    def factor(self, step: int) -> float:
        """The factor at a step, from 0."""
        if step < self.warmup:
            return self.start + (1.0 - self.start) * (step + 1) / (self.warmup + 1)
        if not self.cosine:
            return 1.0
        falling = cosine(step - self.warmup, max(1, self.total - self.warmup))
        return self.floor + (1.0 - self.floor) * falling
