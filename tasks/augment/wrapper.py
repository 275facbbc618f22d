"""What all augmentations share: a task around a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy

import torch
from torch import Tensor

from tasks.base import Batch, Params, Split, Task


class Augmented(Task):
    """A task seen through one change; whatever a subclass leaves alone is the wrapped task's.

    What tells one instance of the change from another travels at the end of the batch, after the tensors of
    the wrapped task: so a population of tasks that were augmented in the same ways, each by its own amount,
    shares one ``loss``.

    Args:
        task: The task to wrap.
        change: What is different, for the description, which tells the chain from the inside out.
        learning_rates: Plausible range for Adam, if it is another one.

    Attributes:
        task: The wrapped task.
        extras: Number of tensors that this wrapper appends to a batch.
    """

    extras = 0

    def __init__(self, task: Task, change: str, *, learning_rates: tuple[float, float] | None = None) -> None:
        super().__init__(
            name=task.name,
            description=f"{task.description}, {change}",
            default_steps=task.default_steps,
            learning_rates=learning_rates or task.learning_rates,
            metric=task.metric,
            higher_is_better=task.higher_is_better,
        )
        self.task = task

    @property
    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of what the task read from disk, by name."""
        return self.task.checksums

    def constants(self) -> Batch:
        """Return the tensors that end every batch of this instance."""
        return ()

    def init(self, generator: torch.Generator) -> Params:
        """Draw the task's parameters."""
        return self.task.init(generator)

    def batch(self, generator: torch.Generator, split: Split = "train") -> Batch:
        """Draw the task's batch and append the constants."""
        return (*self.task.batch(generator, split), *self.constants())

    def batches(self, generator: torch.Generator, count: int, split: Split = "train") -> Batch:
        """Draw the task's batches and append the constants, repeated."""
        repeated = (constant.expand(count, *constant.shape) for constant in self.constants())
        return (*self.task.batches(generator, count, split), *repeated)

    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Loss of the task."""
        return self.task.loss(params, self.divide(batch)[0])

    def divide(self, batch: Batch) -> tuple[Batch, Batch]:
        """Tell the wrapped task's batch from the tensors that this wrapper appended."""
        split = len(batch) - self.extras
        return batch[:split], batch[split:]

    def normalise(self, loss: Tensor) -> Tensor:
        """Normalise as the task does."""
        return self.task.normalise(loss)

    def evaluate(self, params: Params) -> dict[str, float]:
        """Evaluate as the task does: no noise, in its own units and precision."""
        return self.task.evaluate(params)


def innermost(task: Task) -> Task:
    """Return the task inside all augmentations."""
    while isinstance(task, Augmented):
        task = task.task
    return task


def replace_innermost(task: Task, inner: Task) -> Task:
    """Return the same chain of augmentations around another task."""
    if not isinstance(task, Augmented):
        return inner
    outer = copy(task)
    outer.task = replace_innermost(task.task, inner)
    return outer


def compose(task: Task, *wrappers: Callable[[Task], Task]) -> Task:
    """Wrap a task several times.

    Args:
        task: The task.
        wrappers: Each wraps the result of the one before: the first sits closest to the task, the last meets
            the optimizer.

    Example:
        ``compose(task, partial(LabelNoise, share=0.1), partial(LossScale, scale=10.0))``
    """
    for wrap in wrappers:
        task = wrap(task)
    return task
