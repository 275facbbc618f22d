"""The settings of a benchmark, common to its runner, its metrics and its report."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.benchmark.entry import Entry


@dataclass(frozen=True)
class TaskInfo:
    """What the report says about a task.

    Attributes:
        name: The task's name.
        description: One line.
        metric: The validation metric that leads.
        steps: Length of every run on it.
    """

    name: str
    description: str
    metric: str
    steps: int


@dataclass(frozen=True)
class Settings:
    """Everything that was chosen.

    Attributes:
        entries: The contestants, in order.
        sweeps: Learning rates among which each entry's tuned setting is chosen, by its name, rising.
        with_defaults: Whether each entry's default learning rate runs too where its sweep lacks it.
        schedules: Names of learning-rate schedules.
        seeds: The seeds.
        reference: Name of the entry against which speed-ups are figured, if it takes part.
        device: Where it ran.
    """

    entries: tuple[Entry, ...]
    sweeps: dict[str, tuple[float, ...]]
    with_defaults: bool
    schedules: tuple[str, ...]
    seeds: tuple[int, ...]
    reference: str | None
    device: str

    def rates(self, entry: Entry) -> tuple[float, ...]:
        """All learning rates at which an entry runs, rising."""
        extra = {entry.default_lr} if self.with_defaults else set()
        return tuple(sorted({*self.sweeps[entry.name], *extra}))

    def entry(self, name: str) -> Entry:
        """The contestant of that name."""
        return next(entry for entry in self.entries if entry.name == name)
