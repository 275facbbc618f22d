"""The settings of a benchmark, common to its runner, its metrics and its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tasks.benchmark.contestants.entry import Entry

Select = Literal["train", "validation"]
SELECTION: dict[str, str] = {
    "train": "lowest mean final training loss",
    "validation": "best mean of the task's validation metric",
}
"""How a tuned setting is chosen, in words; always among the settings that finished on every seed."""


@dataclass(frozen=True)
class TaskInfo:
    """What the report says about a task.

    Attributes:
        name: The task's name.
        description: One line.
        metric: The validation metric that leads.
        steps: Length of every run on it.
        higher_is_better: Whether more of the metric is better.
    """

    name: str
    description: str
    metric: str
    steps: int
    higher_is_better: bool


@dataclass(frozen=True)
class Settings:
    """Everything that was chosen.

    Attributes:
        entries: The contestants, in order.
        sweeps: Learning rates among which each entry's tuned setting is chosen, by its name, rising.
        with_defaults: Whether each entry's default learning rate runs too where its sweep lacks it.
        schedules: Names of learning-rate schedules.
        seeds: The seeds.
        references: Names of the entries over the best of which speed-ups are figured, those that take part;
            they are distinct.
        device: Where it ran.
        suite: Name of the suite of tasks; empty for a free choice.
        select: What a tuned setting is chosen by, a key of `SELECTION`.
    """

    entries: tuple[Entry, ...]
    sweeps: dict[str, tuple[float, ...]]
    with_defaults: bool
    schedules: tuple[str, ...]
    seeds: tuple[int, ...]
    references: tuple[str, ...]
    device: str
    suite: str = ""
    select: Select = "train"

    @property
    def reference_label(self) -> str:
        """The references' labels in words, such as ``Adam and AdamW``; empty without any."""
        labels = [self.entry(name).label for name in self.references]
        return " and ".join([", ".join(labels[:-1]), labels[-1]] if labels[1:] else labels)

    def races(self, name: str) -> bool:
        """Whether an entry has speed-ups: not without references, and not if it is the only one."""
        return bool(self.references) and self.references != (name,)

    def rates(self, entry: Entry) -> tuple[float, ...]:
        """All learning rates at which an entry runs, rising."""
        extra = {entry.default_lr} if self.with_defaults else set()
        return tuple(sorted({*self.sweeps[entry.name], *extra}))

    def entry(self, name: str) -> Entry:
        """The contestant of that name."""
        return next(entry for entry in self.entries if entry.name == name)
