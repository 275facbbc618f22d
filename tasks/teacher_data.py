"""Synthetic labelled inputs: an endless stream that a random network labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from tasks.base import Batch, Split, instance_generator

INPUTS, HIDDEN, CLASSES = 16, 32, 10
VALIDATION_SIZE = 2048


class TeacherData:
    """An endless stream of standard normal inputs, each labelled with the largest output of a tanh network.

    The outputs are centred over the validation inputs, so that no class is left out. Training batches are
    always fresh; the validation split is a fixed set. Two teachers of one seed are equal.

    Args:
        seed: Picks the teacher and the validation inputs.
        inputs: Width of an input.
        hidden: Width of the teacher's hidden layer.
        classes: Number of classes.
    """

    def __init__(
        self, seed: int, *, inputs: int = INPUTS, hidden: int = HIDDEN, classes: int = CLASSES
    ) -> None:
        if min(inputs, hidden) < 1 or classes < 2:
            raise ValueError(
                f"inputs and hidden must be at least 1, classes at least 2, got {inputs}, {hidden}, {classes}"
            )
        generator = instance_generator(seed, "teacher")
        self._first = torch.randn(inputs, hidden, generator=generator) * (2 / math.sqrt(inputs))
        self._second = torch.randn(hidden, classes, generator=generator)
        self._offset = torch.zeros(classes)
        self._validation = torch.randn(VALIDATION_SIZE, inputs, generator=generator)
        self._offset = self._outputs(self._validation).mean(0)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self._offset)

    @property
    def checksums(self) -> Mapping[str, str]:
        """Nothing is read."""
        return {}

    def draw(self, generator: torch.Generator, shape: tuple[int, ...], split: Split) -> Batch:
        """Draw inputs ``[*shape, inputs]`` and labels ``[*shape]``."""
        if split == "validation":
            inputs = self._validation[torch.randint(VALIDATION_SIZE, shape, generator=generator)]
        else:
            inputs = torch.randn(*shape, self._validation.shape[1], generator=generator)
        return inputs, self._labels(inputs)

    def chunks(self, split: Split, size: int) -> Iterator[Batch]:
        """Walk through the validation inputs in order, ``size`` at a time."""
        if split != "validation":
            raise ValueError(
                "the training stream of a teacher has no end: only the validation split can be walked through"
            )
        for inputs in torch.split(self._validation, size):
            yield inputs, self._labels(inputs)

    def _outputs(self, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs @ self._first) @ self._second - self._offset

    def _labels(self, inputs: Tensor) -> Tensor:
        return self._outputs(inputs).argmax(-1)
