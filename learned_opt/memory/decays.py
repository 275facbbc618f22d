"""Exponential averages: their factors per step, as configured and as learned."""

from collections.abc import Iterable, Sequence
from math import log

import torch
from torch import Tensor

from learned_opt.memory.base import Meta, TimeScale

DECAY, SECOND_DECAY = "memory.log_decay_rate", "memory.log_second_decay_rate"
"""Meta-parameters: log of minus the log of each factor."""


def check_betas(betas: Sequence[float], *others: float) -> None:
    """Refuse what cannot be the factors of averages.

    Raises:
        ValueError: If there are no ``betas``, or one of all these is outside (0, 1).
    """
    if not betas:
        raise ValueError("betas is empty; expected at least one exponential average")
    for beta in (*betas, *others):
        if not 0.0 < beta < 1.0:
            raise ValueError(f"decay factor {beta} is outside (0, 1)")


def log_decay_rate(betas: Iterable[float], dtype: torch.dtype) -> Tensor:
    """``log(-log(beta))`` of each factor: any real number is a decay."""
    return torch.tensor([log(-log(beta)) for beta in betas], dtype=dtype)


def learned_decays(betas: Sequence[float], second_beta: float, dtype: torch.dtype) -> Meta:
    """The meta-parameters `DECAY` and `SECOND_DECAY` at these factors."""
    return {DECAY: log_decay_rate(betas, dtype), SECOND_DECAY: log_decay_rate((second_beta,), dtype)}


def decay_rates(meta: Meta) -> Tensor:
    """Rates per step of the averages and, last, of the second moment, ``[K + 1]``."""
    return torch.cat([meta[DECAY], meta[SECOND_DECAY]]).exp()


def average_scales(rates: Tensor) -> list[TimeScale]:
    """Time scales of averages of the gradient and, last, of its square, by their rates ``[K + 1]``."""
    *heads, squares = half_lives(rates)
    named = [TimeScale(f"average {index}", each) for index, each in enumerate(heads, start=1)]
    return [*named, TimeScale("squares", squares)]


def half_lives(rates: Tensor) -> list[float]:
    """Steps in which each average halves."""
    steps: list[float] = (log(2) / rates.double()).tolist()
    return steps
