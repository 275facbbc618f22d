"""Image classification by small convolutional and residual networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import attrgetter

import torch
from torch import Tensor, nn

from tasks.base import ParametricFamily, TaskFamily
from tasks.configurations import family_of, never_judged, tasks_of
from tasks.datasets import SIDES, load_dataset
from tasks.draws import log_integer, pick
from tasks.image_mlp import ACTIVATIONS, NO_NORM
from tasks.module import ClassificationTask
from tasks.registry import choose

GROUPS = 4


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(GROUPS if channels % GROUPS == 0 else 1, channels)


def _no_norm(_: int) -> nn.Module:
    return nn.Identity()


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": _group_norm,
    NO_NORM: _no_norm,
}


def conv_net(
    channels: Sequence[int], classes: int, *, activation: str = "relu", norm: str = NO_NORM
) -> nn.Sequential:
    """Build 3x3 convolutions of stride 2, a mean over positions, and a linear layer.

    Args:
        channels: Of the input and of every convolution's output.
        classes: Outputs.
        activation: After every convolution, a key of ``tasks.image_mlp.ACTIVATIONS``.
        norm: Between a convolution and its activation, a key of ``NORMS``.

    Raises:
        ValueError: If there is no convolution, or a name is unknown.
    """
    if len(channels) < 2:
        raise ValueError(f"channels must be at least two numbers, got {list(channels)}")
    activate = choose("activation", activation, ACTIVATIONS)
    normalise = choose("normalisation", norm, NORMS)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1))
        if norm != NO_NORM:
            layers.append(normalise(outputs))
        layers.append(activate())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Of the first convolution and of the shortcut.
        activation: A key of ``tasks.image_mlp.ACTIVATIONS``.
        norm: A key of ``NORMS``.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, activation: str, norm: str) -> None:
        super().__init__()
        activate = choose("activation", activation, ACTIVATIONS)
        normalise = choose("normalisation", norm, NORMS)
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
            normalise(outputs),
            activate(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            normalise(outputs),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride)
        self.activation = activate()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, height, width]`` to ``[B, outputs, height / stride, width / stride]``."""
        y: Tensor = self.activation(self.branch(x) + self.shortcut(x))
        return y


def residual_net(
    channels: Sequence[int], classes: int, *, activation: str = "relu", norm: str = "group"
) -> nn.Sequential:
    """Build a convolution, one residual block for each width, a mean over positions and a linear layer.

    Every block but the first halves the image.

    Args:
        channels: Of the input and of every block.
        classes: Outputs.
        activation: A key of ``tasks.image_mlp.ACTIVATIONS``.
        norm: A key of ``NORMS``.

    Raises:
        ValueError: If there is no block, or a name is unknown.
    """
    if len(channels) < 2:
        raise ValueError(f"channels must be at least two numbers, got {list(channels)}")
    first = channels[1]
    blocks = [
        ResidualBlock(inputs, outputs, stride=1 if index == 0 else 2, activation=activation, norm=norm)
        for index, (inputs, outputs) in enumerate(pairwise((first, *channels[1:])))
    ]
    stem = nn.Conv2d(channels[0], first, 3, padding=1)
    return nn.Sequential(
        stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes)
    )


NETWORKS: dict[str, Callable[..., nn.Module]] = {"convolutions": conv_net, "residual": residual_net}


@dataclass(frozen=True)
class ConvConfig:
    """A convolutional network and what it learns.

    Attributes:
        network: A key of ``NETWORKS``.
        dataset: A name for ``load_dataset``.
        channels: Of the input and of every convolution or block.
        activation: A key of ``tasks.image_mlp.ACTIVATIONS``.
        norm: A key of ``NORMS``.
        batch_size: Examples in a batch.
    """

    network: str
    dataset: str
    channels: tuple[int, ...]
    batch_size: int
    activation: str = "relu"
    norm: str = NO_NORM

    def __str__(self) -> str:
        norm = "" if self.norm == NO_NORM else f", {self.norm} norm"
        shape = "-".join(map(str, self.channels))
        return f"{self.dataset}: {self.network} {shape}, {self.activation}{norm}, batch {self.batch_size}"

    def build(self, _seed: int = 0, *, name: str = "image_conv") -> ClassificationTask:
        """Return the task: one instance, whatever the seed."""
        network = choose("network", self.network, NETWORKS)
        return ClassificationTask(
            partial(network, self.channels, 10, activation=self.activation, norm=self.norm),
            load_dataset(self.dataset),
            self.batch_size,
            name=name,
            description=str(self),
            default_steps=1000,
            learning_rates=(1e-3, 1e-1) if self.norm == NO_NORM else (3e-4, 3e-2),
            metric="accuracy",
        )


def _draw(generator: torch.Generator) -> ConvConfig:
    dataset = pick(("digits", "fashion-mnist"), generator)
    side = log_integer(*SIDES, generator)
    depth = int(torch.randint(1, 4, (), generator=generator))
    return ConvConfig(
        network=pick(tuple(NETWORKS), generator),
        dataset=f"{dataset}-{side}",
        channels=(1, *(log_integer(4, 32, generator) for _ in range(depth))),
        activation=pick(tuple(ACTIVATIONS), generator),
        norm=pick(tuple(NORMS), generator),
        batch_size=2 ** int(torch.randint(4, 8, (), generator=generator)),
    )


def _draw_family(generator: torch.Generator) -> TaskFamily:
    """Draw a configuration, never on the images of a judge."""
    return family_of("image_conv", never_judged(_draw, attrgetter("dataset"), _JUDGES.values(), generator))


_JUDGES = {"fashion-14-conv": ConvConfig("convolutions", "fashion-mnist-14", (1, 8, 16), 32)}
_NAMED = _JUDGES | {
    "digits-conv": ConvConfig("convolutions", "digits", (1, 8, 16), 32),
    "digits-resnet": ConvConfig("residual", "digits", (1, 8, 16), 32, norm="group"),
    "digits-resnet-batchnorm": ConvConfig("residual", "digits", (1, 8, 16), 32, norm="batch"),
    "fashion-conv": ConvConfig("convolutions", "fashion-mnist", (1, 16, 32, 64), 64),
    "fashion-resnet": ConvConfig("residual", "fashion-mnist-14", (1, 16, 32), 64, norm="batch"),
}

TASKS = tasks_of(_NAMED)
JUDGES = frozenset(_JUDGES)

PARAMETRIC = (
    ParametricFamily(
        "image_conv",
        "convolutional and residual networks on digits or Fashion-MNIST; group, batch or no norm",
        "1 to 3 layers or blocks of 4 to 32 channels, images of 8 to 28 pixels, batch 16 to 128",
        _draw_family,
    ),
)
