"""Families of augmented tasks, for meta-training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from tasks.augment.noise import GradientNoise, LabelNoise
from tasks.augment.reparametrise import Reparametrised
from tasks.augment.scaling import BatchSize, LossScale, Precision
from tasks.base import ParametricFamily, Params, Task, TaskFamily
from tasks.draws import log_integer, pick


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, log-uniform, that a task has with some probability.

    Args:
        low: Lower bound, above 0.
        high: Upper bound.
        probability: Share of the tasks that draw a number; the others stay as they are.

    Raises:
        ValueError: If the bounds are not ``0 < low <= high < infinity`` or the probability not in [0, 1].
    """

    low: float
    high: float
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(f"bounds must be 0 < low <= high, finite, got {self.low} and {self.high}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be from 0 to 1, got {self.probability}")

    def draw(self, generator: torch.Generator, *, count: int, neutral: float) -> Tensor:
        """Draw ``count`` numbers, ``[count]``; all are ``neutral`` where the task is not to have them."""
        if float(torch.rand((), generator=generator)) >= self.probability:
            return torch.full((count,), neutral, dtype=torch.float64)
        exponents = torch.rand(count, generator=generator, dtype=torch.float64)
        return self.low * (self.high / self.low) ** exponents


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a task, in the order from the task outwards; what is None never does.

    Numbers are drawn for every task; batch size and precision are those of all tasks, which share shapes and
    function.

    Args:
        batch_size: Examples in a batch.
        label_noise: Share of replaced labels; see ``LabelNoise``.
        dtype: Precision of the loss; see ``Precision``.
        overall: Scale of all parameters; see ``Reparametrised``.
        per_tensor: Scale of each tensor.
        per_parameter: Scale of each entry.
        loss_scale: Factor of the loss; see ``LossScale``.
        gradient_noise: Level of the gradient's noise; see ``GradientNoise``.

    Raises:
        ValueError: If more than all labels would be replaced.
    """

    batch_size: int | None = None
    label_noise: Range | None = None
    dtype: torch.dtype | None = None
    overall: Range | None = None
    per_tensor: Range | None = None
    per_parameter: Range | None = None
    loss_scale: Range | None = None
    gradient_noise: Range | None = None

    def __post_init__(self) -> None:
        if self.label_noise is not None and self.label_noise.high > 1:
            raise ValueError(f"label_noise must be shares of at most 1, got {self.label_noise.high}")

    def apply(self, task: Task, generator: torch.Generator) -> Task:
        """Draw the numbers and wrap a task; all tasks of one shape keep one shape."""
        if self.batch_size is not None:
            task = BatchSize(task, self.batch_size)
        if self.label_noise is not None:
            task = LabelNoise(task, _one(self.label_noise, generator, neutral=0.0))
        if self.dtype is not None:
            task = Precision(task, self.dtype)
        if self.overall or self.per_tensor or self.per_parameter:
            task = Reparametrised(task, self._scales(task, generator))
        if self.loss_scale is not None:
            task = LossScale(task, _one(self.loss_scale, generator, neutral=1.0))
        if self.gradient_noise is not None:
            task = GradientNoise(task, _one(self.gradient_noise, generator, neutral=0.0))
        return task

    def _scales(self, task: Task, generator: torch.Generator) -> Params:
        start = task.init(torch.Generator().manual_seed(0))
        scales = torch.ones(len(start), dtype=torch.float64)
        if self.overall is not None:
            scales = scales * self.overall.draw(generator, count=1, neutral=1.0)
        if self.per_tensor is not None:
            scales = scales * self.per_tensor.draw(generator, count=len(start), neutral=1.0)
        each = dict(zip(start, scales.unbind(), strict=True))
        if self.per_parameter is not None:
            sizes = [value.numel() for value in start.values()]
            entries = torch.split(self.per_parameter.draw(generator, count=sum(sizes), neutral=1.0), sizes)
            for (name, value), factors in zip(start.items(), entries, strict=True):
                each[name] = each[name] * factors.view(value.shape)
        return {name: scale.float() for name, scale in each.items()}


def augmented(family: TaskFamily, augmentation: Augmentation) -> TaskFamily:
    """Return a family that draws a task from ``family`` and augments it with numbers of its own.

    Example:
        ``augmented(family, Augmentation(per_tensor=Range(0.1, 10.0), label_noise=Range(0.01, 0.3, 0.5)))``
    """
    return TaskFamily(
        family.name, f"{family.description}, augmented", partial(_sample_task, family, augmentation)
    )


def augmented_configurations(
    parametric: ParametricFamily,
    augmentation: Augmentation,
    *,
    batch_sizes: tuple[int, int] | None = None,
    dtypes: Sequence[torch.dtype] = (),
) -> ParametricFamily:
    """Return a parametric family whose configurations are augmented, each with its batch size and precision.

    Args:
        parametric: The family of families.
        augmentation: What is drawn for every task.
        batch_sizes: Smallest and largest batch; a configuration's is log-uniform between them. None leaves
            what ``augmentation`` says.
        dtypes: Precisions of which a configuration has one, all as likely; none leaves what
            ``augmentation`` says.

    Raises:
        ValueError: If the batch sizes are not ``1 <= low <= high``.
    """
    if batch_sizes is not None and not 1 <= batch_sizes[0] <= batch_sizes[1]:
        raise ValueError(f"batch_sizes must be 1 <= low <= high, got {batch_sizes}")
    return ParametricFamily(
        parametric.name,
        f"{parametric.description}, augmented",
        parametric.sizes,
        partial(_sample_family, parametric, augmentation, batch_sizes, tuple(dtypes)),
    )


def _one(numbers: Range, generator: torch.Generator, *, neutral: float) -> float:
    return float(numbers.draw(generator, count=1, neutral=neutral))


def _sample_task(family: TaskFamily, augmentation: Augmentation, generator: torch.Generator) -> Task:
    return augmentation.apply(family.sample(generator), generator)


def _sample_family(
    parametric: ParametricFamily,
    augmentation: Augmentation,
    batch_sizes: tuple[int, int] | None,
    dtypes: tuple[torch.dtype, ...],
    generator: torch.Generator,
) -> TaskFamily:
    family = parametric.sample_family(generator)
    if batch_sizes is not None:
        augmentation = replace(augmentation, batch_size=log_integer(*batch_sizes, generator))
    if dtypes:
        augmentation = replace(augmentation, dtype=pick(dtypes, generator))
    return augmented(family, augmentation)
