"""How the benchmark drives an optimizer: one gradient a step, and what else the optimizer asks for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from tasks.benchmark.contestants.entry import Need


def backward(loss: Tensor, takes: Sequence[Need]) -> None:
    """Fill in the gradients, with their graph for an optimizer that differentiates them again."""
    if "graph" not in takes:
        loss.backward()  # type: ignore[no-untyped-call]
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
        loss.backward(create_graph=True)  # type: ignore[no-untyped-call]


def step(optimizer: torch.optim.Optimizer, loss: Tensor, takes: Sequence[Need]) -> None:
    """One update with the gradients that are there, and with the loss for an optimizer that takes it."""
    told = cast(Any, optimizer)
    if "loss" in takes:
        told.step(loss=loss.detach())
    else:
        told.step()


def switch(optimizer: torch.optim.Optimizer, mode: Literal["train", "eval"]) -> None:
    """Put an optimizer that has modes, as schedule-free ones do, into one.

    In ``"eval"`` such an optimizer swaps the parameters that it trains for those to be used.
    """
    if callable(change := getattr(optimizer, mode, None)):
        change()
