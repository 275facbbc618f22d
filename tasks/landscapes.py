"""Rosenbrock's, Ackley's and Levy's functions: a curved valley, a pitted plain and a rippled bowl.

In coordinates ``z`` of ``n`` dimensions, each with its only global minimum, 0:

- ``rosenbrock``: sum over ``i < n`` of ``100 (z_{i+1} - z_i^2)^2 + (1 - z_i)^2``; minimum at ``z = 1``;
  starts uniform in [-2, 2].
- ``ackley``: ``20 - 20 exp(-0.2 sqrt(mean z^2)) + e - exp(mean cos 2 pi z)``; minimum at ``z = 0``, where the
  gradient is 0 by definition, as the function has a kink there; starts uniform in [-5, 5], because the plain
  further out has a slope that no gradient method can see.
- ``levy``: with ``w = 1 + (z - 1) / 4``, ``sin^2(pi w_1)`` + sum over ``i < n`` of
  ``(w_i - 1)^2 (1 + 10 sin^2(pi w_i + 1))`` + ``(w_n - 1)^2 (1 + sin^2(2 pi w_n))``; minimum at ``z = 1``;
  starts uniform in [-10, 10].

As a task, the function is moved and turned around its minimiser: ``z = z* + Q (x - x*)``. In 1,000
dimensions, one gradient takes about 1 ms of one core, 0.2 to 0.5 ms without a rotation.

References:
    Surjanovic and Bingham, Virtual Library of Simulation Experiments, https://www.sfu.ca/~ssurjano
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from tasks.base import Batch, ParametricFamily, Params, Split, Task, TaskFamily, instance_generator
from tasks.draws import pick
from tasks.functions import (
    draw_dimension,
    draw_frame,
    locate,
    orders_of_magnitude,
    require_dimension,
)
from tasks.registry import choose

START_SAMPLES = 1024


def rosenbrock(z: Tensor) -> Tensor:
    """Value of Rosenbrock's function at ``z``, ``[n]`` with ``n >= 2``."""
    head, tail = z[:-1], z[1:]
    return (100 * (tail - head.square()).square() + (1 - head).square()).sum()


def ackley(z: Tensor) -> Tensor:
    """Value of Ackley's function at ``z``, ``[n]``, without cancellation near the minimum."""
    distance = torch.linalg.vector_norm(z) / math.sqrt(len(z))
    ripple = torch.sin(math.pi * z).square().mean()
    return -20 * torch.expm1(-0.2 * distance) - math.e * torch.expm1(-2 * ripple)


def levy(z: Tensor) -> Tensor:
    """Value of Levy's function at ``z``, ``[n]``."""
    w = 1 + (z - 1) / 4
    head, last = w[:-1], w[-1]
    bowl = (head - 1).square() * (1 + 10 * torch.sin(math.pi * head + 1).square())
    end = (last - 1).square() * (1 + torch.sin(2 * math.pi * last).square())
    return torch.sin(math.pi * w[0]).square() + bowl.sum() + end


@dataclass(frozen=True)
class _Shape:
    """One function.

    Attributes:
        value: From ``z``, ``[n]``, to the value.
        minimiser: Every coordinate of the minimiser.
        width: Starts are uniform within this distance of 0 in every coordinate.
        learning_rates: Plausible range for Adam.
    """

    value: Callable[[Tensor], Tensor]
    minimiser: float
    width: float
    learning_rates: tuple[float, float]


_SHAPES: dict[str, _Shape] = {
    "ackley": _Shape(ackley, 0.0, 5.0, (1e-2, 1.0)),
    "levy": _Shape(levy, 1.0, 10.0, (1e-2, 1.0)),
    "rosenbrock": _Shape(rosenbrock, 1.0, 2.0, (1e-3, 3e-1)),
}


class Landscape(Task):
    """One of these functions, without noise. A batch is its minimiser and, if it is rotated, its axes.

    Args:
        generator: Draws the instance.
        function: ``"ackley"``, ``"levy"`` or ``"rosenbrock"``.
        dimension: Number of parameters, at least 2.
        shifted: Whether the minimiser is moved, uniformly within half the width of the starts in every
            coordinate.
        rotated: Whether the function lies along random axes.
        name: Name of the task; that of the function if None.

    Raises:
        ValueError: If the dimension is below 2 or the function is unknown.
    """

    def __init__(
        self,
        generator: torch.Generator,
        function: str,
        *,
        dimension: int,
        shifted: bool = False,
        rotated: bool = False,
        name: str | None = None,
    ) -> None:
        shape = choose("function", function, _SHAPES)
        require_dimension(dimension, least=2)
        super().__init__(
            name=name or function,
            description=_describe(function, dimension, shifted, rotated),
            default_steps=1000,
            learning_rates=shape.learning_rates,
        )
        self.function = function
        self.dimension = dimension
        self.shift = shape.width / 2 if shifted else 0.0
        self.rotated = rotated
        self.frame = draw_frame(
            torch.full((dimension,), shape.minimiser), shift=self.shift, rotated=rotated, generator=generator
        )

    @property
    def minimiser(self) -> Tensor:
        """Where the function is 0, ``[n]``."""
        return self.frame[0]

    def init(self, generator: torch.Generator) -> Params:
        """Draw a start, uniform in the function's box around the origin."""
        width = _SHAPES[self.function].width
        return {"x": width * (2 * torch.rand(self.dimension, generator=generator) - 1)}

    def batch(self, generator: torch.Generator, split: Split = "train") -> Batch:
        """Return the minimiser ``[n]`` and the axes ``[n, n]``, if any; nothing is drawn."""
        return self.frame

    def batches(self, generator: torch.Generator, count: int, split: Split = "train") -> Batch:
        """Return the same, repeated without a copy."""
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        return tuple(part.expand(count, *part.shape) for part in self.frame)

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Value of the function, which is also the gap to the minimum."""
        shape = _SHAPES[self.function]
        return shape.value(shape.minimiser + locate(params["x"], *batch))

    def normalise(self, loss: Tensor) -> Tensor:
        """Map a typical start to 1 by ``orders_of_magnitude``."""
        start = _typical_start(self.function, self.dimension, self.shift, self.rotated)
        return orders_of_magnitude(loss, start)

    def evaluate(self, params: Params) -> dict[str, float]:
        """Return the value and the gap to the minimum, which are the same."""
        x = {"x": params["x"].detach().cpu().double()}
        value = float(self.loss(x, tuple(part.cpu().double() for part in self.frame)))
        return {"loss": value, "gap": value}


@lru_cache(maxsize=64)
def _typical_start(function: str, dimension: int, shift: float, rotated: bool) -> float:
    """Geometric mean of the function over starts, shifts and rotations, by a fixed sample.

    A rotation keeps the distance between start and minimiser and makes its direction uniform.
    """
    shape = _SHAPES[function]
    generator = instance_generator(dimension, f"starts {function}")
    total = 0.0
    for _ in range(START_SAMPLES):
        start, moved = 2 * torch.rand(2, dimension, generator=generator, dtype=torch.float64) - 1
        away = shape.width * start - shape.minimiser - shift * moved
        if rotated:
            direction = torch.randn(dimension, generator=generator, dtype=torch.float64)
            away = direction * (torch.linalg.vector_norm(away) / torch.linalg.vector_norm(direction))
        total += math.log(shape.value(shape.minimiser + away))
    return math.exp(total / START_SAMPLES)


def _describe(function: str, dimension: int, shifted: bool, rotated: bool) -> str:
    options = {"shifted": shifted, "rotated": rotated}
    named = "".join(f", {option}" for option, present in options.items() if present)
    return f"{function.title()} function: dimension {dimension}{named}"


def landscape(seed: int = 0, *, function: str, dimension: int, name: str) -> Landscape:
    """Return a textbook function, neither shifted nor rotated: one instance, whatever the seed."""
    return Landscape(instance_generator(seed, function), function, dimension=dimension, name=name)


def _in_dimension(function: str, seed: int, dimension: int) -> Landscape:
    return landscape(seed, function=function, dimension=dimension, name=f"{function}-{dimension}")


def _sample_family(generator: torch.Generator, *, function: str) -> TaskFamily:
    """Draw a configuration; half of them are shifted, half of them rotated."""
    dimension = draw_dimension(generator)
    shifted, rotated = pick((False, True), generator), pick((False, True), generator)
    return _family(function, dimension, shifted=shifted, rotated=rotated)


def _family(function: str, dimension: int, *, shifted: bool, rotated: bool) -> TaskFamily:
    return TaskFamily(
        function,
        _describe(function, dimension, shifted, rotated),
        partial(Landscape, function=function, dimension=dimension, shifted=shifted, rotated=rotated),
    )


TASKS: dict[str, Callable[[int], Task]] = {
    f"{function}-{dimension}": partial(
        landscape, function=function, dimension=dimension, name=f"{function}-{dimension}"
    )
    for function in _SHAPES
    for dimension in (2, 10, 100)
}

FAMILIES: tuple[TaskFamily, ...] = tuple(
    _family(function, 10, shifted=True, rotated=True) for function in _SHAPES
)

PARAMETRIC: tuple[ParametricFamily, ...] = tuple(
    ParametricFamily(
        function,
        f"{function.title()}'s function, shifted, rotated, both or neither",
        "dimension 2 to 1,000",
        partial(_sample_family, function=function),
    )
    for function in _SHAPES
)

FUNCTIONS: dict[str, Callable[[int, int], Task]] = {
    function: partial(_in_dimension, function) for function in _SHAPES
}
