"""Image classification by multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from tasks.base import Task, TaskFamily
from tasks.datasets import load_dataset
from tasks.module import ClassificationTask
from tasks.registry import choose

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}


def mlp(widths: Sequence[int], activation: str, *, layer_norm: bool = False) -> nn.Sequential:
    """Build a perceptron that flattens its input.

    Args:
        widths: Inputs, hidden layers, outputs: at least two numbers.
        activation: A key of ``ACTIVATIONS``.
        layer_norm: Normalise each hidden layer before its activation.

    Raises:
        ValueError: If a width is below 1, there are fewer than two, or the activation is unknown.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be at least two numbers of at least 1, got {list(widths)}")
    activate = choose("activation", activation, ACTIVATIONS)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths[:-1]):
        layers.append(nn.Linear(inputs, outputs))
        if layer_norm:
            layers.append(nn.LayerNorm(outputs))
        layers.append(activate())
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def image_mlp(
    _seed: int = 0,
    *,
    name: str,
    dataset: str,
    widths: Sequence[int],
    activation: str,
    batch_size: int,
    layer_norm: bool = False,
) -> ClassificationTask:
    """Return the task of training a perceptron on a dataset: one instance, whatever the seed."""
    shape = "-".join(map(str, widths))
    return ClassificationTask(
        partial(mlp, widths, activation, layer_norm=layer_norm),
        load_dataset(dataset),
        batch_size,
        name=name,
        description=f"{dataset}: perceptron {shape}, {activation}, batch {batch_size}",
        default_steps=1000,
        learning_rates=(3e-4, 3e-2),
        metric="accuracy",
    )


def _sample(build: Callable[[], Task], _: torch.Generator) -> Task:
    return build()


_DIGITS_32 = partial(
    image_mlp, name="digits-mlp-32", dataset="digits", widths=(64, 32, 10), activation="relu", batch_size=64
)
_DIGITS_TANH = partial(
    image_mlp,
    name="digits-mlp-tanh",
    dataset="digits",
    widths=(64, 24, 24, 10),
    activation="tanh",
    batch_size=64,
)

TASKS: dict[str, Callable[[int], Task]] = {
    "digits-mlp": partial(
        image_mlp,
        name="digits-mlp",
        dataset="digits",
        widths=(64, 128, 128, 10),
        activation="gelu",
        batch_size=64,
    ),
    "digits-mlp-32": _DIGITS_32,
    "digits-mlp-tanh": _DIGITS_TANH,
    "digits-mlp-norm": partial(
        image_mlp,
        name="digits-mlp-norm",
        dataset="digits",
        widths=(64, 48, 48, 10),
        activation="gelu",
        batch_size=32,
        layer_norm=True,
    ),
    "fashion-mlp": partial(
        image_mlp,
        name="fashion-mlp",
        dataset="fashion-mnist",
        widths=(784, 128, 128, 10),
        activation="relu",
        batch_size=128,
    ),
}

FAMILIES: tuple[TaskFamily, ...] = (
    TaskFamily("digits-mlp-32", "digits: perceptron 64-32-10, relu", partial(_sample, _DIGITS_32)),
    TaskFamily("digits-mlp-tanh", "digits: perceptron 64-24-24-10, tanh", partial(_sample, _DIGITS_TANH)),
)
