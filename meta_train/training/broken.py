"""Images that cannot be read: counted once, named, and borne up to a share."""

import tarfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from meta_train.training.processes import World
from tasks import image_files

T = TypeVar("T")

NAMED = 3
UNREADABLE = (*image_files.UNREADABLE, tarfile.TarError)
"""What Pillow and the readers raise at a file that is no whole image."""


class BrokenImagesError(ValueError):
    """More images than allowed cannot be read; the message names some."""


def readable(batches: Iterable[T]) -> Iterator[T]:
    """The same batches, with what goes wrong in a worker process told in one line.

    The frames of the error are cleared, since they would keep the workers alive.

    Raises:
        ValueError: If an image cannot be read or used, or a worker is gone.
    """
    try:
        yield from batches
        return
    except (*UNREADABLE, RuntimeError) as error:
        text = str(error).strip() or type(error).__name__
        traceback.clear_frames(error.__traceback__)
    if text.startswith("Caught "):  # a worker's whole traceback, of which the last line is the message
        text = text.splitlines()[-1].partition(": ")[2]
    raise ValueError(text)


class BrokenImages:
    """Which images of a split could not be read; marks made in worker processes are seen by all.

    Args:
        split: Its name, for messages.
        count: Images in the split.
        most: Share of them that may be broken.
        name: Gives an image's name by its index.
    """

    def __init__(self, split: str, count: int, *, most: float, name: Callable[[int], str]) -> None:
        self.split, self.most, self.name = split, most, name
        self.flags = torch.zeros(count, dtype=torch.uint8)
        self.flags.share_memory_()  # type: ignore[no-untyped-call]

    def mark(self, indices: Iterable[int]) -> None:
        """Note images that cannot be read."""
        for index in indices:
            self.flags[index] = 1

    def indices(self) -> list[int]:
        """Indices of the images found so far."""
        return [int(index) for index in self.flags.nonzero()]

    def share_among(self, world: World) -> None:
        """Let all processes know what each has found."""
        if world.size > 1:
            found = world.maximum(self.flags.to(torch.int32))
            self.flags.masked_fill_(found.bool(), 1)  # workers may set others meanwhile

    def check(self) -> None:
        """Refuse more broken images than allowed.

        Raises:
            BrokenImagesError: It names the first of them.
        """
        if int(self.flags.sum()) > self.most * len(self.flags):
            raise BrokenImagesError(f"{self.describe()}; max_broken allows a share of {self.most:g}")

    def describe(self) -> str:
        """How many there are, and the names of the first; empty if there are none."""
        found = self.indices()
        if not found:
            return ""
        names = ", ".join(self.name(index) for index in found[:NAMED])
        more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
        return f"{len(found):,} of {len(self.flags):,} {self.split} images cannot be read: {names}{more}"
