"""Autoencoders of images: perceptrons, and convolutions with their transposes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import attrgetter

import torch
from torch import Tensor, nn

from tasks.base import Batch, ParametricFamily, Split, TaskFamily, bounded
from tasks.configurations import family_of, never_judged, tasks_of
from tasks.datasets import SIDES, DataSource, load_dataset
from tasks.draws import log_integer, pick
from tasks.image_mlp import ACTIVATIONS, mlp
from tasks.module import ModuleTask
from tasks.registry import choose

CAP = 1.5


class Reconstruction:
    """The images of a dataset as their own targets.

    Args:
        images: Where they come from; its labels are left out.
    """

    def __init__(self, images: DataSource) -> None:
        self.images = images

    @property
    def classes(self) -> int:
        """Number of classes of the images."""
        return self.images.classes

    @property
    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of the bytes that were read, by name."""
        return self.images.checksums

    def draw(self, generator: torch.Generator, shape: tuple[int, ...], split: Split) -> Batch:
        """Draw images ``[*shape, 1, height, width]``, twice the same."""
        images, _ = self.images.draw(generator, shape, split)
        return images, images

    def chunks(self, split: Split, size: int) -> Iterator[Batch]:
        """Walk through a whole split in order, ``size`` images at a time."""
        for images, _ in self.images.chunks(split, size):
            yield images, images


class ReconstructionTask(ModuleTask):
    """Mean squared error of images that a module gives back, in units of the pixels' variance."""

    def criterion(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean over pixels; guessing the mean grey gives about 1."""
        return (outputs - target).square().mean()

    def normalise(self, loss: Tensor) -> Tensor:
        """Clip to [0, 1.5]."""
        return bounded(loss, 0.0, CAP)


def mlp_autoencoder(side: int, hidden: tuple[int, ...], activation: str) -> nn.Sequential:
    """Build a perceptron from an image to its code and back.

    Args:
        side: Of an image, in pixels.
        hidden: Widths up to and with the code; the way back has the same in reverse.
        activation: A key of ``tasks.image_mlp.ACTIVATIONS``.
    """
    widths = (side**2, *hidden, *hidden[-2::-1], side**2)
    return nn.Sequential(mlp(widths, activation), nn.Unflatten(1, (1, side, side)))


def conv_autoencoder(side: int, hidden: tuple[int, ...], activation: str) -> nn.Sequential:
    """Build 3x3 convolutions of stride 2 from an image to its code, and their transposes back.

    Args:
        side: Of an image, in pixels; must be divisible by 2 for each of ``hidden``.
        hidden: Channels up to and with the code; the way back has the same in reverse.
        activation: A key of ``tasks.image_mlp.ACTIVATIONS``, after every layer but the last.

    Raises:
        ValueError: If the side cannot be halved so often.
    """
    if side % 2 ** len(hidden):
        raise ValueError(f"side must be divisible by {2 ** len(hidden)} for {len(hidden)} layers, got {side}")
    activate = choose("activation", activation, ACTIVATIONS)
    channels = (1, *hidden)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), activate()]
    for inputs, outputs in pairwise(channels[::-1]):
        layers += [
            nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1),
            activate(),
        ]
    return nn.Sequential(*layers[:-1])


NETWORKS: dict[str, Callable[[int, tuple[int, ...], str], nn.Module]] = {
    "convolutions": conv_autoencoder,
    "perceptron": mlp_autoencoder,
}


@dataclass(frozen=True)
class AutoencoderConfig:
    """An autoencoder and its images.

    Attributes:
        network: A key of ``NETWORKS``.
        dataset: A name for ``load_dataset``.
        side: Of its images, in pixels.
        hidden: Widths or channels up to and with the code.
        activation: A key of ``tasks.image_mlp.ACTIVATIONS``.
        batch_size: Images in a batch.
    """

    network: str
    dataset: str
    side: int
    hidden: tuple[int, ...]
    activation: str
    batch_size: int

    def __str__(self) -> str:
        shape = "-".join(map(str, self.hidden))
        return (
            f"{self.dataset}, {self.side} pixels: autoencoder, {self.network} {shape} and back, "
            f"{self.activation}, batch {self.batch_size}"
        )

    def build(self, _seed: int = 0, *, name: str = "autoencoder") -> ReconstructionTask:
        """Return the task: one instance, whatever the seed."""
        network = choose("network", self.network, NETWORKS)
        return ReconstructionTask(
            partial(network, self.side, self.hidden, self.activation),
            Reconstruction(load_dataset(f"{self.dataset}-{self.side}")),
            self.batch_size,
            name=name,
            description=str(self),
            default_steps=1000,
            learning_rates=(3e-4, 3e-2),
        )


def _draw(generator: torch.Generator) -> AutoencoderConfig:
    network = pick(tuple(NETWORKS), generator)
    depth = int(torch.randint(1, 3, (), generator=generator))
    side = log_integer(*SIDES, generator)
    if network == "convolutions":
        side -= side % 4
    lowest, highest = (4, 16) if network == "convolutions" else (8, 128)
    return AutoencoderConfig(
        network=network,
        dataset=pick(("digits", "fashion-mnist"), generator),
        side=side,
        hidden=tuple(log_integer(lowest, highest, generator) for _ in range(depth)),
        activation=pick(tuple(ACTIVATIONS), generator),
        batch_size=2 ** int(torch.randint(4, 8, (), generator=generator)),
    )


def _draw_family(generator: torch.Generator) -> TaskFamily:
    """Draw a configuration, never on the images of a judge."""
    config = never_judged(_draw, attrgetter("dataset", "side"), _JUDGES.values(), generator)
    return family_of("autoencoder", config)


_JUDGES = {
    "fashion-14-autoencoder": AutoencoderConfig("perceptron", "fashion-mnist", 14, (64, 16), "gelu", 64)
}
_NAMED = _JUDGES | {
    "digits-autoencoder": AutoencoderConfig("perceptron", "digits", 8, (48, 12), "gelu", 64),
    "digits-conv-autoencoder": AutoencoderConfig("convolutions", "digits", 8, (8, 4), "gelu", 32),
    "fashion-autoencoder": AutoencoderConfig("perceptron", "fashion-mnist", 28, (128, 32), "relu", 128),
}

TASKS = tasks_of(_NAMED)
JUDGES = frozenset(_JUDGES)

PARAMETRIC = (
    ParametricFamily(
        "autoencoder",
        "perceptrons and convolutions that give back digits or Fashion-MNIST through a narrow code",
        "1 or 2 layers each way, width 8 to 128 or 4 to 16 channels, 8 to 28 pixels, batch 16 to 128",
        _draw_family,
    ),
)
