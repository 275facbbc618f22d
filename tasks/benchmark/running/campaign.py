"""Does the jobs of a benchmark that are not yet on disk: here or in workers, with limits and retries."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.benchmark.running.cell import Cell, CellResult, one_line
from tasks.benchmark.running.jobs import (
    Context,
    Done,
    GroupJob,
    Job,
    TimingJob,
    do_job,
    grouped,
    timing_jobs,
)
from tasks.benchmark.running.progress import Bar, Forecast
from tasks.benchmark.running.store import cell_store, timing_store
from tasks.benchmark.running.timing import Timing, timing_key
from tasks.benchmark.running.workers import TimeLimitReached, WorkerDied, run_jobs

PATIENCE = 3
"""Single runs of an optimizer on a task that may reach the time limit before the others are given up."""


class BenchmarkInterrupted(KeyboardInterrupt):
    """Ctrl-C during a benchmark.

    Attributes:
        out: The folder; the same call again goes on from what it holds.
        done: Cells on disk.
        total: Cells planned.
    """

    def __init__(self, out: Path, done: int, total: int) -> None:
        super().__init__(
            f"stopped after {done} of {total} runs; run the same benchmark again to go on ({out})"
        )
        self.out, self.done, self.total = out, done, total


def run_missing(
    context: Context,
    cells: Sequence[Cell],
    folder: Path,
    *,
    workers: int,
    time_limit: float,
    progress: bool,
) -> tuple[tuple[CellResult, ...], dict[tuple[str, str], Timing]]:
    """Do what the folder does not hold yet; all of it reaches the disk as it comes.

    Optimizers are timed last, one at a time: what runs beside a timing decides it.

    Args:
        context: Tasks and entries.
        cells: All of them.
        folder: Of the benchmark.
        workers: Processes, of which one times; 0 for none.
        time_limit: Seconds for one job of a worker.
        progress: Whether to show a bar.

    Returns:
        Results of all cells in their order, and timings by task and optimizer.

    Raises:
        BenchmarkInterrupted: On Ctrl-C.
    """
    store, times = cell_store(folder), timing_store(folder)
    found = {cell: store.get(cell.key) for cell in cells}
    groups = list(grouped(context, [cell for cell, result in found.items() if result is None]))
    wanted = {
        job: times.get(timing_key(*job.pair, job.content)) for job in timing_jobs(cells, context.device)
    }
    timings = {job.pair: timing for job, timing in wanted.items() if timing is not None}
    untimed = [job for job, timing in wanted.items() if timing is None]
    forecast = Forecast(groups, max(workers, 1))
    held = sum(result is not None for result in found.values())
    with Bar(progress, total=len(found), done=held, forecast=forecast, timings=len(untimed)) as bar:
        for file in (store, times):
            if file.unreadable:
                bar.say(f"{file.unreadable} unreadable lines of {file.path.name}: that is done again")
        try:
            for job, outcome in _outcomes(context, groups, untimed, workers, time_limit):
                if isinstance(job, TimingJob):
                    bar.time(1)
                if isinstance(outcome, Timing):
                    times.append(outcome)
                    timings[outcome.task, outcome.optimizer] = outcome
                elif isinstance(job, GroupJob) and outcome:
                    store.append(*outcome)
                    found.update({result.cell: result for result in outcome})
                    forecast.done(job, sum(result.seconds for result in outcome))
                    bar.advance(len(outcome))
        except KeyboardInterrupt:
            done = sum(result is not None for result in found.values())
            raise BenchmarkInterrupted(folder, done, len(found)) from None
    return tuple(result for result in found.values() if result is not None), timings


def _outcomes(
    context: Context,
    groups: Sequence[GroupJob],
    timings: Sequence[TimingJob],
    workers: int,
    time_limit: float,
) -> Iterator[tuple[Job, Done]]:
    """Do groups here or in workers, then time, and yield what jobs gave in the order in which they end."""
    if workers == 0:
        everything: list[Job] = [*groups, *timings]
        for job in everything:
            yield job, do_job(context, job)
        return
    slow: Counter[tuple[str, str]] = Counter()
    yield from _done(context, deque(groups), slow, workers, time_limit)
    yield from ((timing, None) for timing in timings if slow[timing.pair] >= PATIENCE)
    alone = deque(timing for timing in timings if slow[timing.pair] < PATIENCE)
    for timing, outcome in run_jobs(do_job, context, alone, workers=1, time_limit=time_limit):
        yield timing, None if isinstance(outcome, WorkerDied) else outcome


def _done(
    context: Context,
    pending: deque[GroupJob],
    slow: Counter[tuple[str, str]],
    workers: int,
    time_limit: float,
) -> Iterator[tuple[GroupJob, Done]]:
    """Do groups in workers, in halves where one dies, and count the runs that reach the limit."""
    for job, outcome in run_jobs(do_job, context, pending, workers=workers, time_limit=time_limit):
        if not isinstance(outcome, WorkerDied):
            yield job, outcome
        elif len(job.cells) > 1:
            pending.extendleft(reversed(job.halves()))
        else:
            yield job, _failed(job, outcome)
            slow[job.pair] += isinstance(outcome, TimeLimitReached)
            if slow[job.pair] >= PATIENCE:
                yield from _given_up(pending, job.pair, time_limit)


def _given_up(
    pending: deque[GroupJob], pair: tuple[str, str], time_limit: float
) -> Iterator[tuple[GroupJob, list[CellResult]]]:
    """Take the jobs of an optimizer on a task that keeps reaching the limit from the list; they failed."""
    why = TimeLimitReached(
        f"not run: {PATIENCE} runs of this optimizer on this task were stopped after {time_limit:g} seconds"
    )
    dropped = [job for job in pending if job.pair == pair]
    for job in dropped:
        pending.remove(job)
        yield job, _failed(job, why)


def _failed(job: GroupJob, why: WorkerDied) -> list[CellResult]:
    return [CellResult(cell, "failed", error=one_line(why)) for cell in job.cells]
