"""The units of work of a benchmark: groups of runs that advance together, and timings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tasks import get_task
from tasks.base import Task
from tasks.benchmark.contestants.entry import Entry
from tasks.benchmark.running.cell import Cell, CellResult
from tasks.benchmark.running.population import group_size, run_group
from tasks.benchmark.running.timing import Timing, time_entry
from tasks.minima import minima_kept_in


@dataclass(frozen=True)
class Context:
    """What every worker needs to do any job; minima that tasks search for are kept beside the results."""

    tasks: dict[str, str | Task]
    entries: dict[str, Entry]
    device: str
    minima: Path

    def instance(self, name: str, seed: int) -> Task:
        """The task that runs under a seed: a named task's instance of that seed, or the given task itself."""
        task = self.tasks[name]
        return _named_task(task, seed) if isinstance(task, str) else task


@dataclass(frozen=True)
class GroupJob:
    """Runs that advance together.

    Attributes:
        cells: Their settings; of one task, optimizer, seed and length.
    """

    cells: tuple[Cell, ...]

    @property
    def pair(self) -> tuple[str, str]:
        """Task and optimizer."""
        return self.cells[0].task, self.cells[0].optimizer

    def halves(self) -> tuple[GroupJob, GroupJob]:
        """Two jobs of half the runs each, of at least two."""
        middle = len(self.cells) // 2
        return GroupJob(self.cells[:middle]), GroupJob(self.cells[middle:])


@dataclass(frozen=True)
class TimingJob:
    """An optimizer's short run alone.

    Attributes:
        pair: Task and optimizer.
        seed: Draws weights and batches.
        content: For the record.
    """

    pair: tuple[str, str]
    seed: int
    content: str


Job = GroupJob | TimingJob
Done = list[CellResult] | Timing | None


def do_job(context: Context, job: Job) -> Done:
    """Do one job, in whatever process.

    Args:
        context: Tasks and entries.
        job: The job.

    Returns:
        The results of a group, in order; or a timing, None where the optimizer or the task raised.
    """
    name, optimizer = job.pair
    entry = context.entries[optimizer]
    if isinstance(job, GroupJob):
        task = context.instance(name, job.cells[0].seed)
        with minima_kept_in(context.minima):
            return run_group(task, entry, job.cells, device=context.device)
    try:
        task = context.instance(name, job.seed)
        return time_entry(task, entry, seed=job.seed, content=job.content, device=context.device)
    except Exception:  # its runs say why
        return None


def grouped(context: Context, cells: Iterable[Cell]) -> Iterator[GroupJob]:
    """Cut cells into groups of the size that suits their task and optimizer, in their order.

    Args:
        context: Tasks and entries.
        cells: Those that are missing; of one task, optimizer and seed stand together.
    """
    sizes: dict[tuple[str, str], int] = {}
    alike: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.task, cell.optimizer, cell.seed), []).append(cell)
    for (name, optimizer, seed), fellows in alike.items():
        if (name, optimizer) not in sizes:
            sizes[name, optimizer] = group_size(context.instance(name, seed), context.entries[optimizer])
        yield from map(GroupJob, evenly_cut(fellows, sizes[name, optimizer]))


def evenly_cut(cells: Sequence[Cell], most: int) -> Iterator[tuple[Cell, ...]]:
    """As few pieces as there can be, of equal size to one."""
    pieces = -(-len(cells) // most)
    for piece in range(pieces):
        yield tuple(cells[piece * len(cells) // pieces : (piece + 1) * len(cells) // pieces])


def timing_jobs(cells: Iterable[Cell], device: str) -> Iterator[TimingJob]:
    """A timing of every optimizer on every task, under the first seed that they have.

    Args:
        cells: All of a benchmark.
        device: Where it runs.
    """
    seen: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        seen.setdefault((cell.task, cell.optimizer), cell)
    for pair, cell in seen.items():
        yield TimingJob(pair, cell.seed, f"{cell.content} {device}")


@lru_cache(maxsize=8)
def _named_task(name: str, seed: int) -> Task:
    return get_task(name, seed=seed)
