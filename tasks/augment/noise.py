"""Noise in labels and in gradients: part of the training batches, absent from all that measures."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import grad

from tasks.augment.wrapper import Augmented, innermost
from tasks.base import Batch, Params, Split, Task, instance_generator
from tasks.module import ModuleTask


class LabelNoise(Augmented):
    """A share of the training labels, drawn anew with every batch, is replaced by uniform ones.

    A replacement is uniform over all classes, the right one included, so of ``k`` classes a share of
    ``share (1 - 1 / k)`` of the labels is wrong.

    Args:
        task: A task whose targets are classes.
        share: Probability that a label is replaced, in [0, 1].

    Raises:
        ValueError: If the share is outside [0, 1], or the task has no labels.
    """

    def __init__(self, task: Task, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share of replaced labels must be from 0 to 1, got {share}")
        super().__init__(task, f"label noise {share:.3g}")
        self.share = share
        self._position, self._classes = _labels(task)

    def batch(self, generator: torch.Generator, split: Split = "train") -> Batch:
        """Draw the task's batch, then which labels are replaced and by what; validation keeps its labels."""
        batch = self.task.batch(generator, split)
        if split == "validation":
            return batch
        labels = batch[self._position]
        replaced = torch.rand(labels.shape, generator=generator) < self.share
        uniform = torch.randint(self._classes, labels.shape, generator=generator)
        noisy = torch.where(replaced, uniform, labels)
        return (*batch[: self._position], noisy, *batch[self._position + 1 :])

    def batches(self, generator: torch.Generator, count: int, split: Split = "train") -> Batch:
        """Draw batch after batch, as batches and noise take turns at the generator."""
        return Task.batches(self, generator, count, split)


class GradientNoise(Augmented):
    r"""Normal noise is added to the training gradient; the loss keeps its value.

    .. math:: L'(w) = L(w) + \langle n,\; w - \mathrm{sg}(w) \rangle, \qquad \nabla L' = \nabla L + n

    with ``sg`` the stop of gradients. The noise ``n`` is drawn with every batch and ends it, flattened,
    ``[N]``. Its deviation is ``level`` times the root mean square of the gradient of its own tensor
    at a start, figured once on one seeded start and training batch; a tensor without gradient there gets no
    noise. So the level has no units, and the noise is the same seen through other units of the loss or of the
    tensors. It does not fade as the gradient does. Validation batches carry zeros.

    Args:
        task: The task to wrap.
        level: Deviation of the noise over the size of the gradient at the start, at least 0.

    Attributes:
        deviations: Of the noise in each tensor, by name.

    Raises:
        ValueError: If the level is below 0 or not finite, or a gradient at the start is not finite.
    """

    extras = 1

    def __init__(self, task: Task, level: float) -> None:
        if not 0 <= level < math.inf:
            raise ValueError(f"level of the gradient noise must be finite and at least 0, got {level}")
        super().__init__(task, f"gradient noise {level:.3g}")
        self.level = level
        gradient = _start_gradient(task)
        self.deviations = {name: level * value.square().mean().sqrt() for name, value in gradient.items()}
        self._shapes = {name: value.shape for name, value in gradient.items()}
        self._sizes = [value.numel() for value in gradient.values()]
        each = zip(self.deviations.values(), self._sizes, strict=True)
        self._deviation = torch.cat([deviation.expand(size) for deviation, size in each])

    def batch(self, generator: torch.Generator, split: Split = "train") -> Batch:
        """Draw the task's batch, then the noise of every parameter."""
        batch = self.task.batch(generator, split)
        if split == "validation":
            return (*batch, torch.zeros_like(self._deviation))
        return (*batch, self._deviation * torch.randn(len(self._deviation), generator=generator))

    def batches(self, generator: torch.Generator, count: int, split: Split = "train") -> Batch:
        """Draw batch after batch, as batches and noise take turns at the generator."""
        return Task.batches(self, generator, count, split)

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Loss of the task, whose gradient is the task's plus the noise in the batch."""
        inner, _ = self.divide(batch)
        loss = self.task.loss(params, inner)
        for name, noise in self.noise(batch).items():
            loss = loss + (noise * (params[name] - params[name].detach())).sum()
        return loss

    def noise(self, batch: Batch) -> Params:
        """Return the noise in a batch, by name of the parameter that it is for."""
        parts = torch.split(batch[-1], self._sizes)
        return {
            name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }


def _labels(task: Task) -> tuple[int, int]:
    """Place of the labels in the task's batches, and the number of classes."""
    core = innermost(task)
    if isinstance(core, ModuleTask):
        drawn = core.data.draw(torch.Generator().manual_seed(0), (1,), "train")
        if drawn[-1].dtype == torch.int64:
            return len(drawn) - 1, core.data.classes
    raise ValueError(f"label noise needs a task with labels, and {core.name!r} has none")


def _start_gradient(task: Task) -> Params:
    """Gradient at a seeded start on a seeded training batch."""
    generator = instance_generator(0, "gradient noise")
    gradient: Params = grad(task.loss)(task.init(generator), task.batch(generator))
    for name, value in gradient.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"gradient noise has the size of the first gradient: that of {name!r} in {task.name!r} "
                "is not finite"
            )
    return gradient
