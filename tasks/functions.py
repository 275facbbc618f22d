"""What functions of R^n share: how dimensions are drawn, where a function lies, and its meta-loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tasks.base import Task, bounded
from tasks.draws import log_integer

DIMENSIONS = (2, 1000)
FLOOR = 1e-6
CAP = 1.5


def require_dimension(dimension: int, *, least: int = 1) -> int:
    """Return the dimension.

    Raises:
        ValueError: If it is below ``least``.
    """
    if dimension < least:
        raise ValueError(f"dimension must be at least {least}, got {dimension}")
    return dimension


def require_condition_number(condition_number: float) -> float:
    """Return the condition number.

    Raises:
        ValueError: If it is below 1 or not finite.
    """
    if not 1 <= condition_number < math.inf:
        raise ValueError(f"condition_number must be finite and at least 1, got {condition_number}")
    return condition_number


def draw_dimension(generator: torch.Generator) -> int:
    """Draw a dimension between 2 and 1,000, about uniform in its logarithm."""
    return log_integer(*DIMENSIONS, generator)


def draw_rotation(dimension: int, generator: torch.Generator) -> Tensor:
    """Draw an orthogonal matrix ``[n, n]``, float64, uniformly (by Haar's measure).

    The factor Q of a Gaussian matrix is uniform only once the signs of R's diagonal are moved into it.
    """
    gaussian = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    rotation, triangle = torch.linalg.qr(gaussian)
    signed: Tensor = rotation * triangle.diagonal().sign()
    return signed


def spread_eigenvalues(dimension: int, condition_number: float) -> Tensor:
    """Return eigenvalues ``[n]``, float64, descending, spaced evenly in their logarithms, of mean 1."""
    exponents = torch.linspace(0, -1, dimension, dtype=torch.float64)
    eigenvalues: Tensor = condition_number**exponents
    return eigenvalues / eigenvalues.mean()


def draw_frame(
    origin: Tensor, *, shift: float, rotated: bool, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Draw where a function lies: its centre ``[n]`` and, if it is rotated, its axes ``[n, n]``, float32.

    Args:
        origin: The centre when there is no shift, ``[n]``.
        shift: The centre is uniform within this distance of the origin in every coordinate.
        rotated: Whether to draw axes.
        generator: Draws both.
    """
    offset = shift * (2 * torch.rand(len(origin), generator=generator) - 1) if shift else 0.0
    centre = origin + offset
    return (centre, draw_rotation(len(origin), generator).float()) if rotated else (centre,)


def locate(x: Tensor, centre: Tensor, axes: Tensor | None = None) -> Tensor:
    """Return ``x`` seen from the centre, along the axes: ``axes (x - centre)``, ``[n]``."""
    moved = x - centre
    return moved if axes is None else axes @ moved


def orders_of_magnitude(loss: Tensor, start: float) -> Tensor:
    """Map losses of minimum 0 to ``1 + log10(loss / start) / 6``, clipped to [0, 1.5].

    A start maps to 1, and every order of magnitude gained is worth the same, 1/6, down to a gain of a
    million, which gives 0, and up to a loss of a thousand starts.
    """
    slope = -1 / math.log(FLOOR)
    highest = math.exp((CAP - 1) / slope)
    return 1 + slope * torch.log(bounded(loss, FLOOR * start, highest * start) / start)


def surface(task: Task) -> Callable[[Tensor], Tensor]:
    """The values of a function without noise, ``[N]``, at points ``[N, n]``, in float64.

    Args:
        task: Its parameters are one vector of ``n`` elements.
    """
    generator = torch.Generator().manual_seed(0)
    (name,) = task.init(generator)
    batch = tuple(part.double() for part in task.batch(generator, "validation"))

    def values(points: Tensor) -> Tensor:
        measured: Tensor = torch.func.vmap(lambda point: task.loss({name: point}, batch))(points.double())
        return measured

    return values
