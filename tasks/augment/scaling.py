"""Other units of the loss, other precisions, other batch sizes."""

from __future__ import annotations

import math
from copy import copy

import torch
from torch import Tensor

from tasks.augment.wrapper import Augmented, innermost, replace_innermost
from tasks.base import Batch, Params, Task
from tasks.module import ModuleTask

PRECISIONS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class LossScale(Augmented):
    """A task whose loss, and so its gradient, is multiplied by a factor.

    ``normalise`` divides by the factor first; ``evaluate`` reports the task's own loss.

    Args:
        task: The task to wrap.
        scale: The factor.

    Raises:
        ValueError: If the factor is not positive and finite.
    """

    extras = 1

    def __init__(self, task: Task, scale: float) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale of the loss must be positive and finite, got {scale}")
        super().__init__(task, f"loss times {scale:.3g}")
        self.scale = scale

    def constants(self) -> Batch:
        """Return the factor."""
        return (torch.tensor(self.scale),)

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Loss of the task times the factor."""
        inner, (scale,) = self.divide(batch)
        return scale * self.task.loss(params, inner)

    def normalise(self, loss: Tensor) -> Tensor:
        """Normalise the task's own loss."""
        return self.task.normalise(loss / self.scale)


class Precision(Augmented):
    """A task whose loss is computed in another floating-point type.

    Parameters stay as they are stored. They and the batch are cast for the loss, which is returned in
    float32, and gradients come back through the cast. ``evaluate`` works in the parameters' own type. The
    type belongs to the function, not to the batch: a population has one.

    Args:
        task: The task to wrap.
        dtype: One of ``PRECISIONS``.

    Raises:
        ValueError: If it is another type.
    """

    def __init__(self, task: Task, dtype: torch.dtype) -> None:
        if dtype not in PRECISIONS:
            raise ValueError(f"dtype must be one of {', '.join(map(str, PRECISIONS))}, got {dtype}")
        super().__init__(task, f"computed in {str(dtype).removeprefix('torch.')}")
        self.dtype = dtype

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Loss of the task at the parameters and the batch in the other type, as float32."""
        cast = {name: value.to(self.dtype) for name, value in params.items()}
        inputs = tuple(part.to(self.dtype) if part.is_floating_point() else part for part in batch)
        return self.task.loss(cast, inputs).float()


class BatchSize(Augmented):
    """A task whose batches have another number of examples.

    A population has one batch size, as it has one shape.

    Args:
        task: A task with a module in it, augmented or not.
        size: Examples in a batch.

    Raises:
        ValueError: If the size is below 1, or the task's batches hold no examples.
    """

    def __init__(self, task: Task, size: int) -> None:
        if size < 1:
            raise ValueError(f"size of a batch must be at least 1, got {size}")
        core = innermost(task)
        if not isinstance(core, ModuleTask):
            raise ValueError(f"batches of {core.name!r} hold no examples, so they have no size to change")
        resized = copy(core)
        resized.batch_size = size
        super().__init__(replace_innermost(task, resized), f"{size} examples a batch instead")
        self.size = size
