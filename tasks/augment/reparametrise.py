"""Reparametrisation: the same task in other coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from tasks.augment.wrapper import Augmented
from tasks.base import Batch, Params, Task, TaskFamily, log_uniform

SPREAD = 10.0


class Reparametrised(Augmented):
    """A task whose parameters are stored divided by a scale: ``w / s`` moves, the loss is taken at ``s w``.

    The scales travel at the end of the batch, so that a population shares one ``loss``; wrapping twice
    composes. The plausible learning rates are divided by the scales' geometric mean, over tensors, as Adam's
    step has the units of what it moves.

    Args:
        task: The task to wrap.
        scales: A positive scale for each tensor of parameters, 0-dimensional or of a shape that broadcasts to
            it.

    Raises:
        ValueError: If a scale is not positive and finite, or the names are not those of the task's
        parameters.
    """

    def __init__(self, task: Task, scales: Mapping[str, Tensor]) -> None:
        for name, scale in scales.items():
            if not bool((torch.isfinite(scale) & (scale > 0)).all()):
                raise ValueError(f"scale of {name!r} must be positive and finite, got {scale}")
        mean = math.exp(sum(float(scale.log().mean()) for scale in scales.values()) / max(len(scales), 1))
        low, high = task.learning_rates
        super().__init__(task, "rescaled", learning_rates=(low / mean, high / mean))
        self.scales = dict(scales)
        self.extras = len(self.scales)

    def constants(self) -> Batch:
        """Return the scales, in the order of their names here."""
        return tuple(self.scales.values())

    def init(self, generator: torch.Generator) -> Params:
        """Draw the task's parameters and store them divided by the scales."""
        params = self.task.init(generator)
        if params.keys() != self.scales.keys():
            raise ValueError(f"scales must name the parameters {list(params)}, got {list(self.scales)}")
        return {name: value / self.scales[name] for name, value in params.items()}

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Loss of the task at the rescaled parameters."""
        inner, scales = self.divide(batch)
        return self.task.loss(_rescale(params, dict(zip(self.scales, scales, strict=True))), inner)

    def evaluate(self, params: Params) -> dict[str, float]:
        """Evaluate the task at the rescaled parameters."""
        scales = {name: scale.to(params[name].device) for name, scale in self.scales.items()}
        return self.task.evaluate(_rescale(params, scales))


def _rescale(params: Params, scales: Mapping[str, Tensor]) -> Params:
    return {name: value * scales[name] for name, value in params.items()}


def reparametrise(
    task: Task,
    generator: torch.Generator,
    *,
    per_tensor: float = SPREAD,
    overall: float = SPREAD,
    per_parameter: float = 1.0,
) -> Reparametrised:
    """Draw scales for a task: one factor for all parameters times one for each tensor and one for each entry.

    Args:
        task: The task to wrap.
        generator: Draws the scales.
        per_tensor: Each tensor's factor is log-uniform between ``1 / per_tensor`` and ``per_tensor``.
        overall: The common factor is log-uniform between ``1 / overall`` and ``overall``.
        per_parameter: Each entry's factor is log-uniform between ``1 / per_parameter`` and ``per_parameter``.
            Above 1, scales have the shapes of the parameters.

    Raises:
        ValueError: If a spread is below 1 or not finite.
    """
    spreads = {"per_tensor": per_tensor, "overall": overall, "per_parameter": per_parameter}
    for name, spread in spreads.items():
        if not 1 <= spread < math.inf:
            raise ValueError(f"{name} must be finite and at least 1, got {spread}")
    common = log_uniform(1 / overall, overall, generator)
    start = task.init(torch.Generator().manual_seed(0))
    factors = {name: log_uniform(1 / per_tensor, per_tensor, generator) for name in start}
    scales = {name: torch.tensor(common * factor) for name, factor in factors.items()}
    if per_parameter > 1:
        for name, value in start.items():
            exponents = 2 * torch.rand(value.shape, generator=generator) - 1
            scales[name] = scales[name] * per_parameter**exponents
    return Reparametrised(task, scales)


def reparametrised(
    family: TaskFamily, *, per_tensor: float = SPREAD, overall: float = SPREAD, per_parameter: float = 1.0
) -> TaskFamily:
    """Return a family that draws a task from ``family`` and scales for it with ``reparametrise``."""
    sampler = partial(_sample, family, per_tensor=per_tensor, overall=overall, per_parameter=per_parameter)
    return TaskFamily(family.name, f"{family.description}, rescaled", sampler)


def _sample(family: TaskFamily, generator: torch.Generator, **spreads: float) -> Reparametrised:
    return reparametrise(family.sample(generator), generator, **spreads)
