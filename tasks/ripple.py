"""A bowl under a ripple, the function that all forms of Rastrigin's share, and the search for its minimum."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.base import instance_generator
from tasks.minima import fingerprint, remembered_minimum

VERSION = 1  # raise when the search changes, so that what it found before is not reused
START_WIDTH = 1.5
TOLERANCE = 1e-9


class Instance(NamedTuple):
    """One function.

    Attributes:
        matrix: ``A``, ``[n, n]``.
        target: ``b``, ``[n]``.
        ripple: Amplitudes of the ripple, ``[n]``.
        offset: Constant, ``[]``.
    """

    matrix: Tensor
    target: Tensor
    ripple: Tensor
    offset: Tensor


def value(x: Tensor, instance: Instance) -> Tensor:
    """Value at ``x``, ``[n]``: ``||A x - b||^2 / 2 - ripple . cos(2 pi x) + offset``."""
    residual = instance.matrix @ x - instance.target
    return 0.5 * residual @ residual - instance.ripple @ torch.cos(2 * math.pi * x) + instance.offset


def in_double(instance: Instance) -> Instance:
    """Return the same function in float64, on the CPU."""
    return Instance(*(part.detach().cpu().double() for part in instance))


def oracle(instance: Instance, starts: int = 64, seed: int = 0, *, cache: Path | None = None) -> float:
    """Search for the global minimum from many starts, in float64, once for each instance and settings.

    Each start is polished by L-BFGS-B. Then, as steps by whole numbers leave the ripple alone, the best step
    of +-1 in one coordinate or in each of two is taken and polished, until none helps. The result is the
    value at a point that was reached: it bounds the minimum from above and does not prove it.

    With 64 starts an instance costs about 0.3 s of one core in 2 dimensions, 1 s in 10, 3 to 7 s in 100, 6 to
    20 s in 200 and half an hour in 1,000.

    Args:
        instance: The function.
        starts: Number of starts: half around the origin, half around the bowl's centre.
        seed: Picks the starts.
        cache: Folder in which results are kept, ``tasks.minima.minima_folder()`` if None; they are kept in
            memory too.

    Returns:
        The least value found.

    Raises:
        ValueError: If ``starts`` is below 1 or ``seed`` is negative.
    """
    if starts < 1:
        raise ValueError(f"starts must be at least 1, got {starts}")
    generator = instance_generator(seed, "oracle")
    key = fingerprint(f"ripple: version {VERSION}, {starts} starts, seed {seed}", instance)
    search = partial(_search, in_double(instance), starts, generator)
    return remembered_minimum(key, search, folder=cache)


def _search(instance: Instance, starts: int, generator: torch.Generator) -> float:
    centre = torch.linalg.lstsq(instance.matrix, instance.target.unsqueeze(1)).solution.squeeze(1)
    best = math.inf
    for start in range(starts):
        x = START_WIDTH * torch.randn(len(centre), generator=generator, dtype=torch.float64)
        if start % 2:
            x = x + centre
        x, lowest = _polish(x, instance)
        while True:
            moved, found = _polish(x + _best_whole_step(x, instance), instance)
            if found >= lowest - TOLERANCE:
                break
            x, lowest = moved, found
        best = min(best, lowest)
    return best


def _polish(x: Tensor, instance: Instance) -> tuple[Tensor, float]:
    """Descend to a local minimum."""
    from scipy.optimize import minimize  # scipy.optimize takes a while to import

    @torch.enable_grad()
    def value_and_gradient(point: Any) -> tuple[float, Any]:
        leaf = torch.from_numpy(point.copy()).requires_grad_()
        result = value(leaf, instance)
        (gradient,) = torch.autograd.grad(result, leaf)
        return result.item(), gradient.numpy()

    result = minimize(value_and_gradient, x.numpy(), jac=True, method="L-BFGS-B")
    return torch.from_numpy(result.x), float(result.fun)


def _best_whole_step(x: Tensor, instance: Instance) -> Tensor:
    """Return the step of +-1 in one coordinate, or in each of two, after which the bowl is lowest.

    Moves are numbered, those up first: a step is one column of ``[I, -I]`` or the sum of two.
    """
    n = len(x)
    gram = instance.matrix.T @ instance.matrix
    slope = instance.matrix.T @ (instance.matrix @ x - instance.target)
    single = torch.cat([slope, -slope]) + 0.5 * gram.diagonal().repeat(2)
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=x.dtype)
    double = single.unsqueeze(0) + single.unsqueeze(1) + torch.kron(signs, gram)
    double.fill_diagonal_(math.inf)
    change = min(single.min(), double.min())
    moves = [int(single.argmin())] if single.min() == change else divmod(int(double.argmin()), 2 * n)
    step = torch.zeros_like(x)
    for move in moves:
        step[move % n] += 1.0 if move < n else -1.0
    return step
