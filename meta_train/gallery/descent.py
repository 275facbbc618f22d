"""The path of an optimizer over a function of two variables."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks import Task
from tasks.functions import surface

Factory = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Descent:
    """One run.

    Attributes:
        label: Of the optimizer.
        lr: Its learning rate.
        points: Where it was, from the start on, ``[steps + 1, 2]``, float64.
        losses: The function's values there, without noise, ``[steps + 1]``.
    """

    label: str
    lr: float
    points: Tensor
    losses: Tensor


def descend(
    task: Task, factory: Factory, *, label: str, lr: float, start: Tensor, steps: int, seed: int = 0
) -> Descent:
    """Run an optimizer on a function.

    Args:
        task: Its parameters are one vector ``x`` of two elements.
        factory: Takes the parameters and ``lr``.
        label: What to call it.
        lr: Learning rate, constant.
        start: Where to begin, ``[2]``.
        steps: How many.
        seed: Draws the gradients' noise, if there is any.
    """
    x = torch.nn.Parameter(start.clone())
    optimizer = factory([x], lr=lr)
    generator = torch.Generator().manual_seed(seed)
    points = [x.detach().double()]
    for _ in range(steps):
        (x.grad,) = torch.autograd.grad(task.loss({"x": x}, task.batch(generator)), x)
        optimizer.step()
        points.append(x.detach().double())
    visited = torch.stack(points)
    return Descent(label, lr, visited, surface(task)(visited))


def tuned(task: Task, factory: Factory, rates: Iterable[float], **options: Any) -> Descent:
    """The run at the best of several learning rates: that of the lowest loss, a mean over its last tenth.

    Args:
        task: See `descend`, as for the factory.
        factory: Of the optimizer.
        rates: To choose from.
        options: The other arguments of `descend`.
    """
    return min((descend(task, factory, lr=rate, **options) for rate in rates), key=_final)


def _final(descent: Descent) -> float:
    tail = descent.losses[-max(1, len(descent.losses) // 10) :]
    return float(tail.mean().nan_to_num(torch.inf, torch.inf))
