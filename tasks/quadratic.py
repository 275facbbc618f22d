"""Ill-conditioned quadratic functions, exact or with noise in their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tasks.base import (
    Batch,
    ParametricFamily,
    Params,
    Split,
    Task,
    TaskFamily,
    bounded,
    instance_generator,
    log_uniform,
)
from tasks.draws import pick
from tasks.functions import (
    CAP,
    draw_dimension,
    draw_rotation,
    orders_of_magnitude,
    require_condition_number,
    require_dimension,
    spread_eigenvalues,
)

DIMENSION = 20
CONDITION_NUMBERS = (1e1, 1e4)
WIDE_CONDITION_NUMBERS = (1e1, 1e6)
NOISES = (0.1, 3.0)


class Quadratic(Task):
    """``f(x) = ||R x||^2 / 2 + noise . x``, with the minimum 0 at the origin when there is no noise.

    ``R^T R`` has eigenvalues spaced evenly in their logarithms, of mean 1, on random axes or on the
    coordinates' own, in descending order. Starts are
    standard normal, rescaled so that each has the loss ``dimension / 2`` exactly, up to rounding. A batch is
    ``(R, noise)``; the noise, standard normal times a level, is fresh in every training batch, adds to the
    gradient and averages to zero; validation batches have none.

    Args:
        generator: Draws the rotation.
        dimension: Number of parameters.
        condition_number: Largest over smallest eigenvalue.
        noise: Deviation of the gradient's noise; a typical gradient entry at the start is about 1.
        rotated: Whether the axes are random.
        name: Name of the task.

    Raises:
        ValueError: If the dimension or the condition number is below 1, or the noise is below 0.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        dimension: int = DIMENSION,
        condition_number: float = 1e3,
        noise: float = 0.0,
        rotated: bool = True,
        name: str = "quadratic",
    ) -> None:
        require_dimension(dimension)
        require_condition_number(condition_number)
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be finite and at least 0, got {noise}")
        super().__init__(
            name=name,
            description=(
                f"quadratic: dimension {dimension}, condition {condition_number:.3g}, noise {noise:.3g}"
                + ("" if rotated else ", not rotated")
            ),
            default_steps=500,
            learning_rates=(1e-3, 3e-1),
        )
        self.dimension = dimension
        self.noise = noise
        scales = spread_eigenvalues(dimension, condition_number).sqrt()
        root = scales.unsqueeze(1) * draw_rotation(dimension, generator) if rotated else scales.diag()
        self.root = root.float()

    def init(self, generator: torch.Generator) -> Params:
        """Draw a start of loss ``dimension / 2``."""
        x = torch.randn(self.dimension, generator=generator)
        loss = self.loss({"x": x}, (self.root, torch.zeros_like(x)))
        return {"x": x * torch.sqrt(self.dimension / 2 / loss)}

    def batch(self, generator: torch.Generator, split: Split = "train") -> Batch:
        """Return ``(R [dimension, dimension], noise [dimension])``."""
        if self.noise == 0 or split == "validation":
            return self.root, torch.zeros(self.dimension)
        return self.root, self.noise * torch.randn(self.dimension, generator=generator)

    def batches(self, generator: torch.Generator, count: int, split: Split = "train") -> Batch:
        """Draw ``count`` batches at once; the matrix is repeated without a copy."""
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        noises = torch.stack([self.batch(generator, split)[1] for _ in range(count)])
        return self.root.expand(count, *self.root.shape), noises

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Value of the function."""
        root, noise = batch
        x = params["x"]
        stretched = root @ x
        return 0.5 * stretched @ stretched + noise @ x

    def normalise(self, loss: Tensor) -> Tensor:
        """Map the starting loss ``f0`` to 1.

        Without noise: ``orders_of_magnitude``. With noise the logarithm would reward a lucky draw, and the
        ratio ``f / f0``, clipped to [-1.5, 1.5], is right on average.
        """
        start = self.dimension / 2
        if self.noise:
            return bounded(loss, -CAP * start, CAP * start) / start
        return orders_of_magnitude(loss, start)

    def evaluate(self, params: Params) -> dict[str, float]:
        """Return the value without noise, which is also the gap to the minimum."""
        x = params["x"].detach().double()
        root = self.root.to(x)
        value = float(self.loss({"x": x}, (root, torch.zeros_like(x))))
        return {"loss": value, "gap": value}


def quadratic(seed: int = 0, *, name: str = "quadratic", noise: float = 0.0) -> Quadratic:
    """Return the quadratic of a seed: dimension 20, condition number 1,000."""
    return Quadratic(instance_generator(seed, "quadratic"), noise=noise, name=name)


def _sample(generator: torch.Generator, *, name: str, noises: tuple[float, float] | None = None) -> Quadratic:
    condition_number = log_uniform(*CONDITION_NUMBERS, generator)
    noise = log_uniform(*noises, generator) if noises else 0.0
    return Quadratic(generator, condition_number=condition_number, noise=noise, name=name)


def _in_dimension(seed: int, dimension: int) -> Quadratic:
    generator = instance_generator(seed, "quadratic")
    return Quadratic(generator, dimension=dimension, name=f"quadratic-{dimension}")


def _sample_family(generator: torch.Generator) -> TaskFamily:
    """Draw a configuration: half of them noisy, half of them rotated."""
    dimension = draw_dimension(generator)
    condition_number = log_uniform(*WIDE_CONDITION_NUMBERS, generator)
    noise = log_uniform(*NOISES, generator) if pick((False, True), generator) else 0.0
    rotated = pick((False, True), generator)
    return TaskFamily(
        "quadratic",
        f"dimension {dimension}, condition number {condition_number:.3g}, noise {noise:.3g}"
        + (", rotated" if rotated else ""),
        partial(
            Quadratic, dimension=dimension, condition_number=condition_number, noise=noise, rotated=rotated
        ),
    )


TASKS: dict[str, Callable[[int], Task]] = {
    "quadratic": quadratic,
    "quadratic-noisy": partial(quadratic, name="quadratic-noisy", noise=1.0),
}

FAMILIES: tuple[TaskFamily, ...] = (
    TaskFamily(
        "quadratic",
        "random rotations, dimension 20, condition number 10 to 1e4",
        partial(_sample, name="quadratic"),
    ),
    TaskFamily(
        "quadratic-noisy",
        "the same with fresh noise of deviation 0.1 to 3 in every gradient",
        partial(_sample, name="quadratic-noisy", noises=NOISES),
    ),
)

PARAMETRIC: tuple[ParametricFamily, ...] = (
    ParametricFamily(
        "quadratic",
        "ill-conditioned quadratics: condition number 10 to 1e6, with or without noise and rotation",
        "dimension 2 to 1,000",
        _sample_family,
    ),
)

FUNCTIONS: dict[str, Callable[[int, int], Task]] = {"quadratic": _in_dimension}
