"""Jobs in spawned processes: one job at a time each, and a dying process costs one job."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Context = TypeVar("Context")
Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


class WorkerDied(RuntimeError):  # noqa: N818
    """A worker process ended without an answer; an outcome, not raised."""


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, run: Callable[[Any, Any], Any], context: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process: BaseProcess = spawn.Process(target=_serve, args=(theirs, run, context), daemon=True)
        with _interrupts_ignored():
            self.process.start()
        theirs.close()
        self.ready = False
        self.job: int | None = None

    def stop(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def run_jobs(
    run: Callable[[Context, Job], Outcome], context: Context, jobs: Sequence[Job], *, workers: int
) -> Iterator[tuple[int, Outcome | WorkerDied]]:
    """Run every job in one of several processes and yield outcomes as they come.

    Closing the generator, an exception or Ctrl-C ends the processes; they ignore Ctrl-C themselves.

    Args:
        run: Called as ``run(context, job)`` in a worker; a module-level function that does not raise.
        context: Pickled to each worker once.
        jobs: Pickled one by one.
        workers: Number of processes, at least 1.

    Yields:
        Index of a job, and what ``run`` returned or the `WorkerDied` that says how its process ended.

    Raises:
        RuntimeError: If a worker cannot start at all, as when the main script lacks its guard.
    """
    pending = list(range(len(jobs)))[::-1]
    pool: list[_Worker] = []
    try:
        pool += [_Worker(run, context) for _ in range(min(workers, len(jobs)))]
        while pool:
            for pipe in wait([worker.pipe for worker in pool]):
                worker = next(one for one in pool if one.pipe is pipe)
                try:
                    message = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    pool.remove(worker)
                    job, died = worker.job, _obituary(worker)
                    if job is not None:
                        if pending:
                            pool.append(_Worker(run, context))
                        yield job, died
                    continue
                if worker.job is not None:
                    yield worker.job, message
                _hand_out(worker, pending, jobs)
                if worker.job is None:
                    pool.remove(worker)
                    worker.stop()
    finally:
        for worker in pool:
            worker.stop()


def _hand_out(worker: _Worker, pending: list[int], jobs: Sequence[Any]) -> None:
    worker.ready, worker.job = True, pending.pop() if pending else None
    if worker.job is not None:
        with suppress(BrokenPipeError):
            worker.pipe.send(jobs[worker.job])


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


def _serve(pipe: Connection, run: Callable[[Any, Any], Any], context: Any) -> None:
    """A worker's life: say ready, answer jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send(None)
    with suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(run(context, pipe.recv()))
