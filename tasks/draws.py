"""Draws of a configuration's choices: one of several, or an integer whose size spans orders of magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from tasks.base import log_uniform

T = TypeVar("T")


def pick(options: Sequence[T], generator: torch.Generator) -> T:
    """Draw one of the options, each as likely as the others."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def log_integer(low: int, high: int, generator: torch.Generator) -> int:
    """Draw an integer from ``low`` to ``high``, both included, about uniform in its logarithm."""
    return min(high, int(log_uniform(low, high + 1, generator)))
