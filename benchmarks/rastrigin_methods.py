"""Many Rastrigin functions at once, and what is done to them: Adam's sweep, restarts, a rule, a search."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from learned_opt import LearnedOptimizer
from tasks.base import instance_generator
from tasks.benchmark.contestants.entry import log_grid
from tasks.rastrigin import Form, Rastrigin

RATES = log_grid(1e-2, 3.0)
BETAS = (0.9, 0.95, 0.99)
SECOND_BETA = 0.999
EPSILON = 1e-8
PERIOD = 2 * math.pi
BLOCK = 400_000
"""Numbers that are advanced together: what is computed should stay in cache."""
POLISH, WHOLE_STEPS = 60, 10
"""Gradient steps before the first whole step, and whole steps between polishing again."""
LAST_POLISH = 300


class Setting(NamedTuple):
    """How Adam is run.

    Attributes:
        rate: Learning rate at the start.
        beta: Its beta1.
        cosine: Whether the rate falls along half a cosine; else it is constant.
    """

    rate: float
    beta: float
    cosine: bool

    def __str__(self) -> str:
        return f"lr {self.rate:.3g}, beta1 {self.beta:g}, {'cosine' if self.cosine else 'constant'}"


SETTINGS = tuple(Setting(*each) for each in product(RATES, BETAS, (False, True)))
MIDDLE = tuple(setting for setting in SETTINGS if 0.1 < setting.rate < 1.5)
"""Settings of the six middle rates; in a sweep of all, the best rate was never outside 0.2 to 0.6."""


class Functions:
    """``I`` functions of one form and dimension, and a start for each.

    Attributes:
        matrix: ``A``, ``[I, n, n]``.
        target: ``b``, ``[I, n]``.
        ripple: Amplitudes of the ripple, ``[I, n]``.
        offset: ``[I]``.
        start: ``[I, n]``.

    Args:
        form: The published form.
        dimension: ``n``.
        count: ``I``.
        restarts: Further starts, ``[I, restarts, n]``, are drawn after the first.
    """

    def __init__(self, form: Form, dimension: int, count: int, *, restarts: int = 0) -> None:
        tasks = [
            Rastrigin(
                instance_generator(index, f"proof: {form} in {dimension}"), dimension=dimension, form=form
            )
            for index in range(count)
        ]
        generators = [instance_generator(index, "proof: start") for index in range(count)]
        instances = [task.instance for task in tasks]
        self.matrix, self.target, self.ripple, self.offset = map(torch.stack, zip(*instances, strict=True))
        starts = [
            torch.stack([task.init(generator)["x"] for _ in range(1 + restarts)])
            for task, generator in zip(tasks, generators, strict=True)
        ]
        self.starts = torch.stack(starts)
        self.hessian, self.slope = self._bowl(torch.float32)

    @property
    def start(self) -> Tensor:
        """The start that every method begins with, ``[I, n]``."""
        return self.starts[:, 0]

    def _bowl(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        matrix, target = self.matrix.to(dtype), self.target.to(dtype)
        return matrix.mT @ matrix, (matrix.mT @ target[..., None])[..., 0]

    def gradient(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """At ``[I, n, S]``, for some of the functions."""
        ripple = self.ripple[rows, :, None]
        return self.hessian[rows] @ x - self.slope[rows, :, None] + PERIOD * ripple * torch.sin(PERIOD * x)

    def value(self, x: Tensor) -> Tensor:
        """At ``[I, n, S]``, in float64: ``[I, S]``."""
        exact = x.double()
        residual = self.matrix.double() @ exact - self.target.double()[..., None]
        waves = (self.ripple.double()[..., None] * torch.cos(PERIOD * exact)).sum(1)
        return 0.5 * residual.square().sum(1) - waves + self.offset.double()[:, None]

    def blocks(self, width: int) -> Iterator[slice]:
        """Cut the functions so that ``width`` numbers for each make about a block."""
        count = max(1, BLOCK // width)
        for first in range(0, len(self.start), count):
            yield slice(first, first + count)


@torch.no_grad()
def adam(functions: Functions, starts: Tensor, steps: int, settings: Sequence[Setting] = SETTINGS) -> Tensor:
    """Adam's final values at every setting, from ``[I, R, n]`` starts: ``[I, R, settings]``.

    The same as `torch.optim.Adam` at each, run for all of them together.
    """
    count, restarts, n = starts.shape
    rate = torch.tensor([setting.rate for setting in settings]).repeat(restarts)
    beta = torch.tensor([setting.beta for setting in settings]).repeat(restarts)
    cosine = torch.tensor([setting.cosine for setting in settings]).repeat(restarts)
    ends = torch.empty(count, n, len(rate))
    for rows in functions.blocks(n * len(rate)):
        x = starts[rows].mT.repeat_interleave(len(settings), dim=2).contiguous()
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(1, steps + 1):
            gradient = functions.gradient(x, rows)
            first.lerp_(gradient, (1 - beta).expand_as(x))
            second.mul_(SECOND_BETA).addcmul_(gradient, gradient, value=1 - SECOND_BETA)
            fall = 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
            now = rate * torch.where(cosine, fall, 1.0) / (1 - beta**step)
            root = (second / (1 - SECOND_BETA**step)).sqrt_().add_(EPSILON)
            x.sub_(first.mul(now).div_(root))
        ends[rows] = x
    return functions.value(ends).reshape(count, restarts, len(settings))


@torch.no_grad()
def learned(functions: Functions, name_or_folder: str, steps: int, *, lr: float | None = None) -> Tensor:
    """Final values ``[I]`` of a learned optimizer, at its default learning rate if none is given.

    One optimizer holds all functions, each as a tensor of its own: tensors do not see each other.
    """
    together = functions.start.clone()
    params = [nn.Parameter(row) for row in together.unbind()]
    gradient = torch.empty_like(together)
    for param, row in zip(params, gradient.unbind(), strict=True):
        param.grad = row
    optimizer = LearnedOptimizer.from_pretrained(name_or_folder, params, lr, total_steps=steps)
    for _ in range(steps):
        gradient.copy_(functions.gradient(together[..., None])[..., 0])
        optimizer.step()
    return functions.value(together[..., None])[:, 0]


@torch.no_grad()
def oracle(functions: Functions, starts: int) -> Tensor:
    """Least values that a search from many starts finds, ``[I]``: what `tasks.ripple.oracle` does, batched.

    Half of the starts are around the origin and half around the bowl's centre. Each is polished by gradient
    descent with momentum; then, as steps by whole numbers leave the ripple alone, the step of +-1 in one or
    two coordinates after which the bowl is lowest is taken, and the point polished every now and then, until
    none helps. Float64.
    """
    count, n = functions.start.shape
    found = torch.empty(count, dtype=torch.float64)
    for rows in functions.blocks(8 * starts * n * n):
        search = _Search(functions, rows, starts)
        found[rows] = search.run()
    return found


class _Search:
    """The search on some of the functions; points are ``[I, starts, n]``."""

    def __init__(self, functions: Functions, rows: slice, starts: int) -> None:
        self.matrix, self.target, self.ripple, self.offset = (
            part[rows].double()
            for part in (functions.matrix, functions.target, functions.ripple, functions.offset)
        )
        self.hessian = self.matrix.mT @ self.matrix
        self.slope = (self.matrix.mT @ self.target[..., None])[..., 0]
        curvature = torch.linalg.eigvalsh(self.hessian)[:, -1] + PERIOD**2 * self.ripple.abs().amax(-1)
        self.rate = (1 / curvature)[:, None, None]
        n = len(self.hessian[0])
        generator = instance_generator(rows.start or 0, f"proof: oracle in {n}")
        shape = (len(self.hessian), starts, n)
        self.x = 1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
        centre = torch.linalg.lstsq(self.matrix, self.target[..., None]).solution[..., 0]
        self.x[:, 1::2] += centre[:, None]

    def run(self) -> Tensor:
        """The least value for each function."""
        self._polish(POLISH)
        while True:
            moved = [self._whole_step() for _ in range(WHOLE_STEPS)]
            before = self._values()
            self._polish(POLISH)
            if not any(moved) and float((before - self._values()).max()) < 1e-6:
                break
        self._polish(LAST_POLISH)
        return self._values().amin(-1)

    def _values(self) -> Tensor:
        residual = self.x @ self.matrix.mT - self.target[:, None]
        waves = (self.ripple[:, None] * torch.cos(PERIOD * self.x)).sum(-1)
        return 0.5 * residual.square().sum(-1) - waves + self.offset[:, None]

    def _polish(self, steps: int) -> None:
        x, ahead = self.x, self.x
        for _ in range(steps):
            slope = ahead @ self.hessian - self.slope[:, None]
            slope = slope + PERIOD * self.ripple[:, None] * torch.sin(PERIOD * ahead)
            moved = ahead - self.rate * slope
            x, ahead = moved, moved + 0.8 * (moved - x)
        better = self._with(x) < self._values()
        self.x = torch.where(better[..., None], x, self.x)

    def _with(self, x: Tensor) -> Tensor:
        held, self.x = self.x, x
        values = self._values()
        self.x = held
        return values

    def _whole_step(self) -> bool:
        """Take the best step of +-1 in one coordinate or two from every point; whether one was of use."""
        n = self.x.shape[-1]
        slope = self.x @ self.hessian - self.slope[:, None]
        diagonal = self.hessian.diagonal(dim1=-2, dim2=-1)
        single = torch.cat([slope, -slope], -1) + 0.5 * torch.cat([diagonal, diagonal], -1)[:, None]
        signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
        crossed = torch.cat([torch.cat([sign * self.hessian for sign in row], -1) for row in signs], -2)
        double = single[..., None, :] + single[..., :, None] + crossed[:, None]
        double.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
        lowest_two, which_two = double.flatten(-2).min(-1)
        lowest_one, which_one = single.min(-1)
        two = lowest_two < lowest_one
        useful = torch.where(two, lowest_two, lowest_one) < -1e-9
        step = torch.zeros_like(self.x)
        for move, counts in (
            (torch.where(two, which_two // (2 * n), which_one), useful),
            (which_two % (2 * n), useful & two),
        ):
            size = torch.where(move < n, 1.0, -1.0).double() * counts
            step.scatter_add_(-1, (move % n)[..., None], size[..., None])
        self.x = self.x + step
        return bool(useful.any())
