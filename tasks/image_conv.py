"""Image classification by small convolutional networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from tasks.base import Task, TaskFamily
from tasks.datasets import load_dataset
from tasks.module import ClassificationTask


def conv_net(channels: Sequence[int], classes: int) -> nn.Sequential:
    """Build 3x3 convolutions of stride 2 with ReLU, a mean over positions, and a linear layer.

    Args:
        channels: Of the input and of every convolution's output.
        classes: Outputs.

    Raises:
        ValueError: If there is no convolution.
    """
    if len(channels) < 2:
        raise ValueError(f"channels must be at least two numbers, got {list(channels)}")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


def image_conv(
    _seed: int = 0, *, name: str, dataset: str, channels: Sequence[int], batch_size: int
) -> ClassificationTask:
    """Return the task of training a convolutional network on a dataset: one instance, whatever the seed."""
    return ClassificationTask(
        partial(conv_net, channels, 10),
        load_dataset(dataset),
        batch_size,
        name=name,
        description=f"{dataset}: convolutions {'-'.join(map(str, channels))}, stride 2, batch {batch_size}",
        default_steps=1000,
        learning_rates=(1e-3, 1e-1),
        metric="accuracy",
    )


TASKS: dict[str, Callable[[int], Task]] = {
    "digits-conv": partial(
        image_conv, name="digits-conv", dataset="digits", channels=(1, 8, 16), batch_size=32
    ),
}

FAMILIES: tuple[TaskFamily, ...] = ()
