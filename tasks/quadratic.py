"""Ill-conditioned quadratic functions, exact or with noise in their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tasks.base import Batch, Params, Split, Task, TaskFamily, bounded, instance_generator, log_uniform

DIMENSION = 20
CONDITION_NUMBERS = (1e1, 1e4)
NOISES = (0.1, 3.0)
FLOOR = 1e-6
CAP = 1.5


class Quadratic(Task):
    """``f(x) = ||R x||^2 / 2 + noise . x``, with the minimum 0 at the origin when there is no noise.

    ``R^T R`` is a random rotation of eigenvalues spaced evenly in their logarithms, of mean 1. Starts are
    standard normal, rescaled so that each has the loss ``dimension / 2`` exactly, up to rounding. A batch is
    ``(R, noise)``; the noise, standard normal times a level, is fresh in every training batch, adds to the
    gradient and averages to zero; validation batches have none.

    Args:
        generator: Draws the rotation.
        dimension: Number of parameters.
        condition_number: Largest over smallest eigenvalue.
        noise: Deviation of the gradient's noise; a typical gradient entry at the start is about 1.
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
        name: str = "quadratic",
    ) -> None:
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, got {dimension}")
        if not 1 <= condition_number < math.inf:
            raise ValueError(f"condition_number must be finite and at least 1, got {condition_number}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be finite and at least 0, got {noise}")
        super().__init__(
            name=name,
            description=(
                f"quadratic: dimension {dimension}, condition {condition_number:.3g}, noise {noise:.3g}"
            ),
            default_steps=500,
            learning_rates=(1e-3, 3e-1),
        )
        self.dimension = dimension
        self.noise = noise
        self.root = _random_root(dimension, condition_number, generator)

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

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Value of the function."""
        root, noise = batch
        x = params["x"]
        stretched = root @ x
        return 0.5 * stretched @ stretched + noise @ x

    def normalise(self, loss: Tensor) -> Tensor:
        """Map the starting loss ``f0`` to 1.

        Without noise: ``1 + log10(f / f0) / 6``, clipped to [0, 1.5], so that every order of magnitude gained
        is worth the same, 1/6, down to a gain of a million, which gives 0, and up to a loss of a thousand.
        With noise the logarithm would reward a lucky draw, and the ratio ``f / f0``, clipped to [-1.5, 1.5],
        is right on average.
        """
        start = self.dimension / 2
        if self.noise:
            return bounded(loss, -CAP * start, CAP * start) / start
        slope = -1 / math.log(FLOOR)
        highest = math.exp((CAP - 1) / slope)
        return 1 + slope * torch.log(bounded(loss, FLOOR * start, highest * start) / start)

    def evaluate(self, params: Params) -> dict[str, float]:
        """Return the value without noise, which is also the gap to the minimum."""
        x = params["x"].detach().double()
        root = self.root.to(x)
        return {"loss": float(self.loss({"x": x}, (root, torch.zeros_like(x))))}


def _random_root(dimension: int, condition_number: float, generator: torch.Generator) -> Tensor:
    """Return ``R [dimension, dimension]``: square roots of the eigenvalues times a random rotation."""
    exponents = torch.linspace(0, -1, dimension, dtype=torch.float64)
    eigenvalues = condition_number**exponents
    eigenvalues = eigenvalues / eigenvalues.mean()
    gaussian = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    rotation, triangle = torch.linalg.qr(gaussian)
    rotation = rotation * triangle.diagonal().sign()
    root: Tensor = eigenvalues.sqrt().unsqueeze(1) * rotation
    return root.float()


def quadratic(seed: int = 0, *, name: str = "quadratic", noise: float = 0.0) -> Quadratic:
    """Return the quadratic of a seed: dimension 20, condition number 1,000."""
    return Quadratic(instance_generator(seed, "quadratic"), noise=noise, name=name)


def _sample(generator: torch.Generator, *, name: str, noises: tuple[float, float] | None = None) -> Quadratic:
    condition_number = log_uniform(*CONDITION_NUMBERS, generator)
    noise = log_uniform(*noises, generator) if noises else 0.0
    return Quadratic(generator, condition_number=condition_number, noise=noise, name=name)


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
