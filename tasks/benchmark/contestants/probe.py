"""Finding out, before a benchmark begins, whether a factory builds an optimizer and what that asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from tasks.benchmark.contestants.entry import Entry, Need

PROBE_STEPS = 100


def probed(entry: Entry) -> Entry:
    """Build an entry's optimizer over a small layer, at two learning rates.

    Args:
        entry: The entry; what its ``takes`` says already stays.

    Returns:
        It, with what the optimizer asks for: the loss if it has a true ``needs_loss``, the graph if it has a
        true ``is_second_order``.

    Raises:
        ValueError: If the factory raises, or takes no notice of the learning rate, or builds something else
            than an optimizer with a learning rate that steps on gradients that are there.
    """
    rate, other = entry.default_lr, entry.default_lr / 2
    try:
        optimizer, lower = _built(entry, rate), _built(entry, other)
    except Exception as error:
        raise ValueError(
            f"optimizer {entry.name!r} cannot be built from parameters and a learning rate "
            f"({type(error).__name__}: {error})"
        ) from error
    if not all("lr" in group for group in optimizer.param_groups):
        raise ValueError(f"optimizer {entry.name!r} has no learning rate, so it cannot be tuned")
    if _rates(optimizer) == _rates(lower):
        raise ValueError(
            f"optimizer {entry.name!r} takes no notice of its learning rate: it is the same for lr={rate:g} "
            f"and lr={other:g}; expected a factory that hands lr on"
        )
    if missing := _required(optimizer.step) - {"loss"}:
        raise ValueError(
            f"optimizer {entry.name!r} cannot step without {', '.join(sorted(missing))}; "
            "the benchmark takes one gradient a step"
        )
    found: dict[Need, str] = {"loss": "needs_loss", "graph": "is_second_order"}
    asked = [need for need, attribute in found.items() if getattr(optimizer, attribute, False)]
    return replace(entry, takes=tuple(dict.fromkeys([*entry.takes, *asked])))


def _built(entry: Entry, lr: float) -> torch.optim.Optimizer:
    layer = {"layer.weight": torch.ones(4, 3), "layer.bias": torch.ones(4)}
    params = {name: tensor.requires_grad_() for name, tensor in layer.items()}
    return entry.build(params, lr, steps=PROBE_STEPS)


def _rates(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Whatever may be a learning rate: those of the groups, and the optimizer's own numbers."""
    own = [value for value in vars(optimizer).values() if isinstance(value, float)]
    return [*(group["lr"] for group in optimizer.param_groups), *own]


def _required(function: Callable[..., Any]) -> set[str]:
    """Names of the parameters that a function cannot be called without."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return {one.name for one in parameters if one.default is one.empty and one.kind not in kinds}
