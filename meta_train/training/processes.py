"""The processes of a run: one, or as many as torchrun started."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
from torch import Tensor, distributed

from meta_train.interrupt import InterruptFlag
from meta_train.rendezvous import MEETING, launched


@dataclass(frozen=True)
class World:
    """This process among all.

    Attributes:
        device: On which it computes.
        rank: From 0; the first one writes and prints.
        size: How many there are.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, elementwise; the same on each."""
        if self.size == 1:
            return values
        total = values.to(self.device)
        distributed.all_reduce(total)
        return total.to(values.device)

    def maximum(self, values: Tensor) -> Tensor:
        """The largest over all processes, elementwise; the same on each."""
        if self.size == 1:
            return values
        largest = values.to(self.device)
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        return largest.to(values.device)


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, by timm; without it there is this process alone.

    Args:
        device: ``cpu``, ``cuda``, ...; among several processes on GPUs each takes the one of its own number.

    Raises:
        ValueError: If a launcher told this process less than it needs to meet the others.
    """
    from timm.utils.distributed import init_distributed_device_so, is_distributed_env

    if launched() == 1 and not is_distributed_env():
        yield World(torch.device(device))
        return
    joined = init_distributed_device_so(device, dist_url=MEETING)
    try:
        yield World(torch.device(joined["device"]), joined["global_rank"], joined["world_size"])
    finally:
        distributed.destroy_process_group()


class GroupInterruptFlag(InterruptFlag):
    """Ctrl-C in one of several processes, which get it from the terminal and once more from torchrun.

    It stays a wish, however often it comes: at a second Ctrl-C torchrun kills the processes.
    """

    def __exit__(self, *_error: object) -> None:
        super().__exit__()
        if self.raised:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.raised:
            super()._note(number, frame)
