"""Synthetic images: an endless stream of smooth random patterns, shifted and covered in noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from tasks.base import Batch, Split, instance_generator

CLASSES = 10
VALIDATION_SIZE = 2048
VARIANTS = 2
WAVES = 3
SHIFT = 8
NOISE = 0.5


class PatternData:
    """Grey images of ``classes`` kinds; which kind is to be told.

    A kind has two patterns, random fields of a few long waves, of deviation 1. An image is one of them,
    shifted around the torus by up to an eighth of the side either way, its contrast between a half and one
    and a half, plus uniform noise of deviation a half. Training images are always fresh, the validation split
    is a fixed set, and two sources of one seed are equal.

    Args:
        seed: Picks the patterns and the validation images.
        image: Side of an image, in pixels.
        classes: Number of kinds.

    Raises:
        ValueError: If the side is below 4 or there are fewer than two classes.
    """

    def __init__(self, seed: int, *, image: int, classes: int = CLASSES) -> None:
        if image < 4 or classes < 2:
            raise ValueError(f"image must be at least 4 and classes at least 2, got {image} and {classes}")
        generator = instance_generator(seed, "patterns")
        self.image = image
        self._patterns = _smooth_fields(classes * VARIANTS, image, generator)
        self._validation = self._fresh(generator, (VALIDATION_SIZE,))

    @property
    def classes(self) -> int:
        """Number of kinds."""
        return len(self._patterns) // VARIANTS

    @property
    def checksums(self) -> Mapping[str, str]:
        """Nothing is read."""
        return {}

    def draw(self, generator: torch.Generator, shape: tuple[int, ...], split: Split) -> Batch:
        """Draw images ``[*shape, 1, image, image]`` and labels ``[*shape]``."""
        if split == "train":
            return self._fresh(generator, shape)
        index = torch.randint(VALIDATION_SIZE, shape, generator=generator)
        return self._validation[0][index], self._validation[1][index]

    def chunks(self, split: Split, size: int) -> Iterator[Batch]:
        """Walk through the validation images in order, ``size`` at a time."""
        if split != "validation":
            raise ValueError(
                "the training stream of patterns has no end: only the validation split can be walked through"
            )
        yield from zip(*(torch.split(part, size) for part in self._validation), strict=True)

    def _fresh(self, generator: torch.Generator, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        side = self.image
        drawn = torch.rand(*shape, 4 + side**2, generator=generator)
        choices, pixels = torch.split(drawn, [4, side**2], dim=-1)
        which, down, right, contrast = choices.unbind(-1)
        pattern = (which * len(self._patterns)).long()
        reach = side // SHIFT
        line = torch.arange(side)
        rows, columns = (
            (line + ((2 * reach + 1) * share).long().unsqueeze(-1) - reach) % side for share in (down, right)
        )
        shifted = self._patterns[pattern[..., None, None], rows.unsqueeze(-1), columns.unsqueeze(-2)]
        noise = NOISE * math.sqrt(12) * (pixels.view(*shape, side, side) - 0.5)
        images = (0.5 + contrast[..., None, None]) * shifted + noise
        return images.unsqueeze(-3), pattern // VARIANTS


def _smooth_fields(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Sums of waves of up to ``WAVES`` periods a side with normal amplitudes, ``[count, side, side]``.

    Each has mean 0 and deviation 1.
    """
    angles = 2 * math.pi * torch.arange(WAVES + 1)[:, None] * torch.arange(side) / side
    waves = torch.cat([angles.cos(), angles[1:].sin()])
    amplitudes = torch.randn(count, len(waves), len(waves), generator=generator)
    fields = waves.T @ amplitudes @ waves
    fields = fields - fields.mean((1, 2), keepdim=True)
    return fields / fields.std((1, 2), keepdim=True)
