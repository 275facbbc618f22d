"""The processes of a run: who is who, and the few numbers that they exchange."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from meta_train.rendezvous import MEETING, launched


class LostProcessError(RuntimeError):
    """Another process of the run is gone; what was done since the last checkpoint is too."""


class ProcessFailedError(ValueError):
    """What a process of the run met, raised on all of them."""


@dataclass
class Ranks:
    """This process among those of a run.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
        sent: Bytes of numbers that it has sent so far.
    """

    rank: int = 0
    size: int = 1
    sent: int = field(default=0, compare=False)

    @classmethod
    @contextmanager
    def joined(cls) -> Iterator["Ranks"]:
        """In the group that ``torchrun`` started this process for, while entered; alone if it did not.

        Only numbers that lie on the CPU are exchanged, so that gloo serves on any device. A process that ends
        with the group still there is now and then aborted by gloo's threads.

        Raises:
            ValueError: If the variables that ``torchrun`` sets are there in part only, or are wrong.
        """
        if launched() == 1:
            yield cls()
            return
        dist.init_process_group("gloo", init_method=MEETING)
        try:
            yield cls(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()

    def owns(self, index: int) -> bool:
        """Whether a unit is this process's to advance."""
        return index % self.size == self.rank

    def take_device(self, name: str) -> str:
        """Make the device of this process the current one, and name it.

        Args:
            name: With ``cuda``, of several processes on a machine each takes the GPU of its own number, or
                shares one where there are fewer. Any other, ``cuda:1`` for one, is that of all.
        """
        if self.size == 1 or name != "cuda":
            return name
        number = int(os.environ.get("LOCAL_RANK", self.rank)) % max(torch.cuda.device_count(), 1)
        torch.cuda.set_device(number)
        return f"cuda:{number}"

    def gather(self, numbers: Tensor) -> list[Tensor]:
        """The numbers of every process, in the order of their ranks; all give tensors of one shape.

        Raises:
            LostProcessError: If a process is gone.
        """
        if self.size == 1:
            return [numbers]
        gathered = [torch.empty_like(numbers) for _ in range(self.size)]
        with _lost_or_there():
            dist.all_gather(gathered, numbers.contiguous())
        self.sent += numbers.numel() * numbers.element_size() * (self.size - 1)
        return gathered

    def agree(self, well: bool) -> bool:
        """Whether all is well with every process; each waits here for the others."""
        return all(bool(each) for each in self.gather(torch.tensor([float(well)])))

    def first_error(self, error: Exception | None) -> str | None:
        """What the first process with an error says; None if all is well. Each waits here for the others."""
        texts = [error and (str(error) or type(error).__name__)]
        if self.size > 1:
            texts *= self.size
            with _lost_or_there():
                dist.all_gather_object(texts, texts[self.rank])
        said = ((rank, text) for rank, text in enumerate(texts) if text)
        return next((f"process {rank}: {text}" if rank else text for rank, text in said), None)

    def outlast_first(self) -> None:
        """Wait until the first process, which says why a run failed, has left the group.

        As soon as one process has ended, ``torchrun`` ends the others, whatever they are saying.
        """
        if dist.is_initialized():
            with suppress(LostProcessError):
                self.agree(False)

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Leave a block on every process or on none; they exchange nothing inside it.

        Raises:
            ProcessFailedError: On every process, if one met a `ValueError` or an `OSError`: the first's.
            LostProcessError: If a process is gone.
        """
        if self.size == 1:
            yield
            return
        met: Exception | None = None
        try:
            yield
        except (ValueError, OSError) as error:
            met = error
        first = self.first_error(met)
        if first is not None:
            raise ProcessFailedError(first) from met

    def same(self, number: int) -> bool:
        """Whether every process has the same number, of at most 53 bits; each waits here for the others."""
        numbers = self.gather(torch.tensor([number], dtype=torch.float64))
        return all(torch.equal(each, numbers[0]) for each in numbers)

    def rows(self, own: Sequence[Tensor], count: int) -> list[Tensor]:
        """Rows of all units in order, from those of each process's own.

        Args:
            own: One row of numbers for each unit that this process owns, in order.
            count: Units in all.
        """
        slots = -(-count // self.size)
        width = own[0].numel()
        padding = torch.zeros(slots - len(own), width)
        everyone = self.gather(torch.cat([torch.stack(list(own)), padding]))
        return [everyone[index % self.size][index // self.size] for index in range(count)]


@contextmanager
def _lost_or_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process of the run was lost; resume to go on from the last checkpoint"
        ) from error
