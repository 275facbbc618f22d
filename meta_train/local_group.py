"""A run's processes on one machine, without ``torchrun``: this one leads, the others follow."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from meta_train.ranks import LostProcessError, Ranks

ENDED_EARLY = "a process of the run ended before it began"
MOST_WORKERS = 8
PATIENCE = 60.0
"""Seconds that a follower is given to end by itself."""


def usable_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usual_workers() -> int:
    """Processes for a benchmark that nobody gave a number: one a usable processor, at most `MOST_WORKERS`."""
    return min(usable_processors(), MOST_WORKERS)


@contextmanager
def local_group(size: int, follow: Callable[[Ranks], None], *, threads: int) -> Iterator[Ranks]:
    """Start ``size - 1`` followers, and be the first of the group while entered.

    Args:
        size: Processes in all.
        follow: What the others do; it must be picklable.
        threads: Threads of an operation in each.

    Raises:
        LostProcessError: If a follower ends before the group is complete.
    """
    torch.set_num_threads(threads)
    if size == 1:
        yield Ranks()
        return
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        context = _context()
        pipes, followers = [], list[BaseProcess]()
        for rank in range(1, size):
            pipe, theirs = context.Pipe()
            process = context.Process(
                target=_follow, args=(follow, rank, size, store, threads, theirs), daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(pipe)
            followers.append(process)
        try:
            _await(pipes)
            ranks = _joined(0, size, store)
            _tell(pipes)
            yield ranks
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            _end(followers)


def _context() -> Any:
    """Followers are forked from one process that has imported everything, or spawned where that is unsafe."""
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["meta_train.loop"])
    return context


def _await(pipes: list[Connection]) -> None:
    """Let all meet when each is there: nothing would end the wait for one that died on its way."""
    try:
        for pipe in pipes:
            pipe.recv()
    except EOFError as error:
        raise LostProcessError(ENDED_EARLY) from error
    _tell(pipes)


def _tell(pipes: list[Connection]) -> None:
    """Let all go on."""
    try:
        for pipe in pipes:
            pipe.send(None)
    except BrokenPipeError as error:
        raise LostProcessError(ENDED_EARLY) from error


def _joined(rank: int, size: int, store: Path) -> Ranks:
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    return Ranks(rank, size)


def _follow(
    follow: Callable[[Ranks], None], rank: int, size: int, store: Path, threads: int, pipe: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader hears it, and all stop together
    torch.set_num_threads(threads)
    try:
        pipe.send(None)
        pipe.recv()
        ranks = _joined(rank, size, store)
        pipe.recv()  # one that ended at once would take the connection from a leader that is still joining
        follow(ranks)
    except (LostProcessError, EOFError, BrokenPipeError):
        sys.exit(1)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _end(followers: list[BaseProcess]) -> None:
    for follower in followers:
        follower.join(PATIENCE if sys.exc_info()[0] is None else 1.0)
        if follower.is_alive():
            follower.terminate()
            follower.join()
