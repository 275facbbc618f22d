"""Jobs in spawned processes, each on a core: a process that dies or hangs costs one job."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Context = TypeVar("Context")
Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


class WorkerDied(RuntimeError):  # noqa: N818
    """A worker process ended without an answer; an outcome, not raised."""


class TimeLimitReached(WorkerDied):
    """A job was not done in time, so that its process was killed."""


class _Worker:
    """A process and the pipe to it.

    Args:
        run: What it does with a job.
        context: Pickled to it.
        place: Its number among the workers.
        core: Which one it runs on; None for whichever is free.
    """

    def __init__(self, run: Callable[[Any, Any], Any], context: Any, place: int, core: int | None) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.place = place
        self.process: BaseProcess = spawn.Process(
            target=_serve, args=(theirs, run, context, core), daemon=True
        )
        with _interrupts_ignored():
            self.process.start()
        theirs.close()
        self.ready = False
        self.job: Any = None
        self.deadline = math.inf

    def take(self, job: Any, time_limit: float) -> None:
        """Begin a job."""
        self.job, self.deadline = job, time.monotonic() + time_limit
        with suppress(BrokenPipeError):
            self.pipe.send(job)

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


def run_jobs(
    run: Callable[[Context, Job], Outcome],
    context: Context,
    jobs: deque[Job],
    *,
    workers: int,
    time_limit: float = math.inf,
) -> Iterator[tuple[Job, Outcome | WorkerDied]]:
    """Run every job in one of several processes and yield outcomes as they come.

    As many processes as this one may use cores, or more, are pinned to one core each, where the system can do
    so; where they are fewer, the system chooses, which knows what else runs. Closing the generator, an
    exception or Ctrl-C ends the processes; they ignore Ctrl-C themselves.

    Args:
        run: Called as ``run(context, job)`` in a worker; a module-level function that does not raise.
        context: Pickled to each worker once.
        jobs: Pickled one by one, from the left; whoever reads the outcomes may add and remove some.
        workers: Number of processes, at least 1.
        time_limit: Seconds for one job, after which its process is killed.

    Yields:
        A job, and what ``run`` returned or the `WorkerDied` that says how its process ended.

    Raises:
        RuntimeError: If a worker cannot start at all, as when the main script lacks its guard.
    """
    pool: list[_Worker] = []
    try:
        while _staff(pool, run, context, jobs, workers, time_limit):
            for worker in _heard(pool):
                try:
                    outcome = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    pool.remove(worker)
                    outcome = _obituary(worker)
                yield from _answer(worker, outcome)
            for worker in [one for one in pool if one.deadline < time.monotonic()]:
                pool.remove(worker)
                worker.stop()
                yield from _answer(worker, TimeLimitReached(f"stopped after {time_limit:g} seconds"))
    finally:
        for worker in pool:
            worker.stop()


def _staff(
    pool: list[_Worker],
    run: Callable[[Any, Any], Any],
    context: Any,
    jobs: deque[Any],
    workers: int,
    time_limit: float,
) -> bool:
    """Hand out jobs, start processes for more of them, and stop those without; says whether any is left."""
    for worker in [one for one in pool if one.ready and one.job is None]:
        if jobs:
            worker.take(jobs.popleft(), time_limit)
        else:
            pool.remove(worker)
            worker.stop()
    starting = sum(not worker.ready for worker in pool)
    while len(pool) < workers and starting < len(jobs):
        free = next(place for place in range(workers) if place not in {one.place for one in pool})
        pool.append(_Worker(run, context, free, _core(free, workers)))
        starting += 1
    return bool(pool)


def _heard(pool: list[_Worker]) -> list[_Worker]:
    """The workers that have said something, once any has or a deadline has passed."""
    deadline = min(worker.deadline for worker in pool)
    patience = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
    heard = wait([worker.pipe for worker in pool], patience)
    return [worker for worker in pool if worker.pipe in heard]


def _answer(worker: _Worker, outcome: Any) -> Iterator[tuple[Any, Any]]:
    """A worker's job and its outcome; its first word, that it is ready, belongs to none."""
    job, worker.job, worker.ready, worker.deadline = worker.job, None, True, math.inf
    if job is not None:
        yield job, outcome


def _obituary(worker: _Worker) -> WorkerDied:
    """How a process ended; raises where it never came to its first job."""
    worker.process.join()
    worker.pipe.close()
    code = worker.process.exitcode or 0
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    if not worker.ready:
        raise RuntimeError(
            f"a worker process could not start ({how}). Scripts need an `if __name__ == '__main__':` guard "
            "around the call and factories that can be pickled; workers=0 runs everything in this process"
        )
    return WorkerDied(f"the worker process died ({how})")


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C from the first; only the main thread can say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _serve(pipe: Connection, run: Callable[[Any, Any], Any], context: Any, core: int | None) -> None:
    """A worker's life: say ready, answer jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if core is not None:
        os.sched_setaffinity(0, {core})
    pipe.send(None)
    with suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(run(context, pipe.recv()))


def _core(place: int, workers: int) -> int | None:
    """The core of a worker; None where it is not pinned."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return cores[place % len(cores)] if workers >= len(cores) else None
