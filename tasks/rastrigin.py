"""Rastrigin functions: a bowl under a ripple, with exponentially many local minima.

All three published forms are one function,

    f(x) = ||A x - b||^2 / 2 - ripple . cos(2 pi x) + offset,

and differ in how ``A``, ``b`` and ``ripple`` are drawn, and in where the start is. With ``alpha = 10`` and
``n`` dimensions, ``offset = alpha n`` and

- ``open-l2o``: ``A``, ``b`` and ``ripple / alpha`` standard normal; the start too.
- ``lois``: ``A = sqrt(2) (I + 0.1 E)``, ``b / sqrt(2)`` and ``E`` standard normal, ``ripple = alpha``; the
  start uniform in [-3, 3]. Publications leave the noise open: 0.1 and the shifted bowl, which makes the
  origin no hint, are ours.
- ``standard``: ``A = sqrt(2) I``, ``b = 0``, ``ripple = alpha``: the textbook function, minimum 0 at the
  origin; the start uniform in [-3, 3].

References:
    Chen et al., 2022, Learning to Optimize: A Primer and a Benchmark, https://arxiv.org/abs/2103.12828
    Cao et al., 2019, Learning to Optimize in Swarms, https://arxiv.org/abs/1911.03787
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from tasks.base import Batch, Params, Split, Task, TaskFamily, bounded, instance_generator
from tasks.registry import choose
from tasks.ripple import Instance, in_double, oracle, value

Form = Literal["open-l2o", "lois", "standard"]

ALPHA = 10.0
LOIS_NOISE = 0.1
START_WIDTH = 3.0
CAP = 1.5


class Rastrigin(Task):
    """One Rastrigin function, without noise: every batch is its ``Instance``.

    Args:
        generator: Draws the instance.
        dimension: Number of parameters.
        form: One of the three published forms, see the module's docstring.
        name: Name of the task.

    Raises:
        ValueError: If the dimension is below 1 or the form is unknown.
    """

    def __init__(
        self, generator: torch.Generator, *, dimension: int, form: Form = "open-l2o", name: str = "rastrigin"
    ) -> None:
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, got {dimension}")
        draw = choose("form of the Rastrigin function", form, _DRAWS)
        super().__init__(
            name=name,
            description=f"Rastrigin function: dimension {dimension}, {form} form",
            default_steps=1000,
            learning_rates=(1e-2, 1.0),
        )
        self.dimension = dimension
        self.form = form
        self.instance = draw(dimension, generator)

    def init(self, generator: torch.Generator) -> Params:
        """Draw a start: standard normal, or uniform in [-3, 3], by the form."""
        if self.form == "open-l2o":
            return {"x": torch.randn(self.dimension, generator=generator)}
        return {"x": (2 * torch.rand(self.dimension, generator=generator) - 1) * START_WIDTH}

    def batch(self, generator: torch.Generator, split: Split = "train") -> Batch:
        """Return the instance; nothing is drawn."""
        return tuple(self.instance)

    def batches(self, generator: torch.Generator, count: int, split: Split = "train") -> Batch:
        """Return the instance, repeated without a copy."""
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        return tuple(part.expand(count, *part.shape) for part in self.instance)

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Value of the function."""
        return value(params["x"], Instance(*batch))

    @property
    def typical_start(self) -> float:
        """Mean of the function over instances and starts of this form."""
        n = self.dimension
        if self.form == "open-l2o":
            bowl = n * (n + 1) / 2
        elif self.form == "lois":
            bowl = n * (START_WIDTH**2 / 3 * (1 + n * LOIS_NOISE**2) + 1)
        else:
            bowl = n * START_WIDTH**2 / 3
        return bowl + ALPHA * n

    def normalise(self, loss: Tensor) -> Tensor:
        """Loss in units of a typical start's, clipped to [-1.5, 1.5]; some minima are negative."""
        start = self.typical_start
        return bounded(loss, -CAP * start, CAP * start) / start

    def evaluate(self, params: Params) -> dict[str, float]:
        """Return the value and its gap to the least value known, which is searched for once an instance."""
        x = params["x"].detach().cpu().double()
        loss = float(value(x, in_double(self.instance)))
        return {"loss": loss, "gap": loss - self.minimum()}

    def minimum(self, *, starts: int = 64, seed: int = 0, cache: Path | None = None) -> float:
        """Return the least value known: 0 for the standard form, else what ``oracle`` finds."""
        return 0.0 if self.form == "standard" else oracle(self.instance, starts, seed, cache=cache)


def _draw_open_l2o(n: int, generator: torch.Generator) -> Instance:
    matrix = torch.randn(n, n, generator=generator)
    target = torch.randn(n, generator=generator)
    ripple = ALPHA * torch.randn(n, generator=generator)
    return Instance(matrix, target, ripple, torch.tensor(ALPHA * n))


def _draw_lois(n: int, generator: torch.Generator) -> Instance:
    matrix = math.sqrt(2) * (torch.eye(n) + LOIS_NOISE * torch.randn(n, n, generator=generator))
    target = math.sqrt(2) * torch.randn(n, generator=generator)
    return Instance(matrix, target, torch.full((n,), ALPHA), torch.tensor(ALPHA * n))


def _draw_standard(n: int, generator: torch.Generator) -> Instance:
    return Instance(
        math.sqrt(2) * torch.eye(n), torch.zeros(n), torch.full((n,), ALPHA), torch.tensor(ALPHA * n)
    )


_DRAWS: dict[str, Callable[[int, torch.Generator], Instance]] = {
    "open-l2o": _draw_open_l2o,
    "lois": _draw_lois,
    "standard": _draw_standard,
}
assert tuple(_DRAWS) == get_args(Form)


def rastrigin(
    seed: int = 0, *, name: str = "rastrigin", dimension: int, form: Form = "open-l2o"
) -> Rastrigin:
    """Return the Rastrigin function of a seed, which is the same whatever else was drawn."""
    return Rastrigin(instance_generator(seed, "rastrigin"), dimension=dimension, form=form, name=name)


def _sample_lois(generator: torch.Generator) -> Rastrigin:
    return Rastrigin(generator, dimension=10, form="lois", name="rastrigin-lois")


TASKS: dict[str, Callable[[int], Task]] = {
    "rastrigin": partial(rastrigin, name="rastrigin", dimension=10),
    "rastrigin-2": partial(rastrigin, name="rastrigin-2", dimension=2),
    "rastrigin-10": partial(rastrigin, name="rastrigin-10", dimension=10),
    "rastrigin-100": partial(rastrigin, name="rastrigin-100", dimension=100),
    "rastrigin-lois-10": partial(rastrigin, name="rastrigin-lois-10", dimension=10, form="lois"),
    "rastrigin-standard-10": partial(rastrigin, name="rastrigin-standard-10", dimension=10, form="standard"),
}

FAMILIES: tuple[TaskFamily, ...] = (
    TaskFamily("rastrigin-lois", "Rastrigin functions in the LOIS form, dimension 10", _sample_lois),
)
