"""Image classification by multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import attrgetter

import torch
from torch import nn

from tasks.base import ParametricFamily, Task, TaskFamily, draw_seed
from tasks.configurations import never_judged, tasks_of
from tasks.datasets import SIDES, DataSource, load_dataset
from tasks.draws import log_integer, pick
from tasks.module import ClassificationTask
from tasks.registry import choose
from tasks.teacher_data import TeacherData

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
NO_NORM = "none"


def mlp(widths: Sequence[int], activation: str, *, norm: str = NO_NORM) -> nn.Sequential:
    """Build a perceptron that flattens its input.

    Args:
        widths: Inputs, hidden layers, outputs: at least two numbers.
        activation: A key of ``ACTIVATIONS``.
        norm: How each hidden layer is normalised before its activation: a key of ``NORMS``, or ``"none"``.

    Raises:
        ValueError: If a width is below 1, there are fewer than two, or a name is unknown.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be at least two numbers of at least 1, got {list(widths)}")
    activate = choose("activation", activation, ACTIVATIONS)
    normalise = choose("normalisation", norm, NORMS | {NO_NORM: nn.Identity})
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths[:-1]):
        layers.append(nn.Linear(inputs, outputs))
        if norm != NO_NORM:
            layers.append(normalise(outputs))
        layers.append(activate())
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


@dataclass(frozen=True)
class MLPConfig:
    """A perceptron and what it learns.

    Attributes:
        dataset: A name for ``load_dataset``, or ``teacher``: random networks that label normal inputs.
        widths: Inputs, hidden layers, outputs.
        activation: A key of ``ACTIVATIONS``.
        norm: A key of ``NORMS``, or ``"none"``.
        batch_size: Examples in a batch.
    """

    dataset: str
    widths: tuple[int, ...]
    activation: str
    batch_size: int
    norm: str = NO_NORM

    def __str__(self) -> str:
        norm = "" if self.norm == NO_NORM else f", {self.norm} norm"
        shape = "-".join(map(str, self.widths))
        return f"{self.dataset}: perceptron {shape}, {self.activation}{norm}, batch {self.batch_size}"

    def build(self, seed: int = 0, *, name: str = "image_mlp") -> ClassificationTask:
        """Return the task: one instance, whatever the seed, but for a teacher, which the seed draws."""
        return ClassificationTask(
            partial(mlp, self.widths, self.activation, norm=self.norm),
            self._data(seed),
            self.batch_size,
            name=name,
            description=str(self),
            default_steps=1000,
            learning_rates=(3e-4, 3e-2),
            metric="accuracy",
        )

    def _data(self, seed: int) -> DataSource:
        if self.dataset == "teacher":
            return TeacherData(seed, inputs=self.widths[0], classes=self.widths[-1])
        return load_dataset(self.dataset)


def _sample(config: MLPConfig, name: str, generator: torch.Generator) -> Task:
    return config.build(draw_seed(generator) if config.dataset == "teacher" else 0, name=name)


def _draw(generator: torch.Generator) -> MLPConfig:
    dataset = pick(("digits", "fashion-mnist", "teacher"), generator)
    side = log_integer(*SIDES, generator)
    depth = int(torch.randint(1, 5, (), generator=generator))
    hidden = (log_integer(8, 256, generator) for _ in range(depth))
    return MLPConfig(
        dataset=dataset if dataset == "teacher" else f"{dataset}-{side}",
        widths=(side**2, *hidden, 10),
        activation=pick(tuple(ACTIVATIONS), generator),
        norm=pick((NO_NORM, *NORMS), generator),
        batch_size=2 ** int(torch.randint(4, 9, (), generator=generator)),
    )


def _draw_family(generator: torch.Generator) -> TaskFamily:
    """Draw a configuration, never the network of a judge."""
    config = never_judged(_draw, attrgetter("widths"), _JUDGES.values(), generator)
    return TaskFamily("image_mlp", str(config), partial(_sample, config, "image_mlp"))


_JUDGES = {
    "digits-mlp": MLPConfig("digits", (64, 128, 128, 10), "gelu", 64),
    "fashion-mlp": MLPConfig("fashion-mnist", (784, 128, 128, 10), "relu", 128),
}
_NAMED = _JUDGES | {
    "digits-mlp-32": MLPConfig("digits", (64, 32, 10), "relu", 64),
    "digits-mlp-tanh": MLPConfig("digits", (64, 24, 24, 10), "tanh", 64),
    "digits-mlp-norm": MLPConfig("digits", (64, 48, 48, 10), "gelu", 32, norm="layer"),
    "digits-mlp-batchnorm": MLPConfig("digits", (64, 64, 64, 10), "relu", 64, norm="batch"),
    "fashion-8-mlp": MLPConfig("fashion-mnist-8", (64, 64, 64, 10), "relu", 128),
}

TASKS = tasks_of(_NAMED)
JUDGES = frozenset(_JUDGES)

FAMILIES: tuple[TaskFamily, ...] = (
    TaskFamily(
        "digits-mlp-32",
        "digits: perceptron 64-32-10, relu",
        partial(_sample, _NAMED["digits-mlp-32"], "digits-mlp-32"),
    ),
    TaskFamily(
        "digits-mlp-tanh",
        "digits: perceptron 64-24-24-10, tanh",
        partial(_sample, _NAMED["digits-mlp-tanh"], "digits-mlp-tanh"),
    ),
)

PARAMETRIC = (
    ParametricFamily(
        "image_mlp",
        "perceptrons on digits, Fashion-MNIST or a random teacher's labels; layer, batch or no norm",
        "1 to 4 hidden layers of 8 to 256, images of 8 to 28 pixels, batch 16 to 256",
        _draw_family,
    ),
)
