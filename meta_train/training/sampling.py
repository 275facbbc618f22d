"""Which images a process gets, in which order."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from meta_train.training.processes import World
from meta_train.training.randomness import seed_of


class Key(NamedTuple):
    """An image in an epoch.

    Attributes:
        epoch: From 0.
        image: Its index in the split.
        copy: Which of its copies, where an epoch has several; each is augmented in its own way.
    """

    epoch: int
    image: int
    copy: int


def epoch_order(count: int, *, seed: int, epoch: int, repeats: int = 1) -> torch.Tensor:
    """Indices and copies of the images of an epoch, ``[count, 2]``, as the seed and the epoch determine them.

    Args:
        count: Images in the split, and in an epoch.
        seed: Of the run.
        epoch: From 0.
        repeats: Copies of each image that comes; with more than one, an epoch has so many times fewer images.

    References:
        Hoffer et al., 2020, https://arxiv.org/abs/1901.09335, for copies in one batch.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    order = torch.randperm(count, generator=generator)
    chosen = order[: -(-count // repeats)]
    copies = torch.arange(repeats).repeat(len(chosen))
    return torch.stack([chosen.repeat_interleave(repeats), copies], dim=1)[:count]


def parts_of(batch_size: int, *, accumulate: int, world: World) -> int:
    """How many equal parts a step has: one for every process and pass.

    Raises:
        ValueError: If a step cannot be divided so.
    """
    parts = accumulate * world.size
    if batch_size % parts:
        raise ValueError(
            f"batch_size is {batch_size}; expected a multiple of {parts}, "
            f"which is {world.size} processes times {accumulate} passes"
        )
    return parts


class EpochSampler(Sampler[list[Key]]):
    """Keys of the images that one process trains on, a list for every pass through the model.

    A step takes the next ``batch_size`` images of the epoch's order; of these, process ``rank`` of ``size``
    has every ``size``-th and goes through them in ``accumulate`` equal pieces. The last, short step is left
    out.

    Args:
        count: Images in the split.
        batch_size: Images a step, of all processes; a multiple of processes times pieces.
        accumulate: Pieces.
        repeats: As `epoch_order`.
        seed: Of the run.
        world: The processes.

    Raises:
        ValueError: If a step cannot be divided so, or there are too few images for one.
    """

    def __init__(
        self, count: int, *, batch_size: int, accumulate: int, repeats: int, seed: int, world: World
    ) -> None:
        parts = parts_of(batch_size, accumulate=accumulate, world=world)
        self.batch_size = min(batch_size, count - count % parts)
        if not self.batch_size:
            raise ValueError(f"there are {count} images; expected at least {parts}, one a process and pass")
        self.count, self.accumulate, self.repeats = count, accumulate, repeats
        self.seed, self.world = seed, world
        self.epoch = self.start = 0

    @property
    def steps(self) -> int:
        """Steps of a whole epoch."""
        return self.count // self.batch_size

    def move_to(self, epoch: int, start: int) -> None:
        """Let the next pass be through an epoch from one of its steps on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        order = epoch_order(self.count, seed=self.seed, epoch=self.epoch, repeats=self.repeats)
        for step in range(self.start, self.steps):
            whole = order[step * self.batch_size : (step + 1) * self.batch_size]
            for piece in whole[self.world.rank :: self.world.size].chunk(self.accumulate):
                yield [Key(self.epoch, index, copy) for index, copy in piece.tolist()]


class OrderedSampler(Sampler[list[Key]]):
    """Keys of all images in order, a list for every pass; each image goes to one process.

    Args:
        count: Images in the split.
        batch_size: Images a pass.
        world: The processes.
    """

    def __init__(self, count: int, *, batch_size: int, world: World) -> None:
        self.mine = range(world.rank, count, world.size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for first in range(0, len(self.mine), self.batch_size):
            yield [Key(0, index, 0) for index in self.mine[first : first + self.batch_size]]
