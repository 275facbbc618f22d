"""Performance profiles: on what share of the tasks an optimizer is within a factor of the fastest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """One optimizer's performance profile over the tasks, tuned.

    Attributes:
        optimizer: Name of the entry.
        ratios: Factors of the fastest optimizer's steps to the target, rising from 1.
        share: Share of the tasks on which this one needs at most that factor, in 0..1, as many.
        low: Lower end of each share's 95 % interval; empty with a single seed.
        high: Upper end.
    """

    optimizer: str
    ratios: tuple[float, ...]
    share: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
