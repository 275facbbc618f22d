"""A run's processes on one machine, without ``torchrun``: this one leads, the others follow."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist

from meta_train.ranks import LostProcessError, Ranks

PATIENCE = 60.0
"""Seconds that a follower is given to end by itself."""


def usable_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def local_group(size: int, follow: Callable[[Ranks], None], *, threads: int) -> Iterator[Ranks]:
    """Start ``size - 1`` followers, and be the first of the group while entered.

    Args:
        size: Processes in all.
        follow: What the others do; it must be picklable.
        threads: Threads of an operation in each.
    """
    torch.set_num_threads(threads)
    if size == 1:
        yield Ranks()
        return
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        context = get_context("spawn")
        followers: list[BaseProcess] = [
            context.Process(target=_follow, args=(follow, rank, size, store, threads), daemon=True)
            for rank in range(1, size)
        ]
        for follower in followers:
            follower.start()
        try:
            yield _joined(0, size, store)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            _end(followers)


def _joined(rank: int, size: int, store: Path) -> Ranks:
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    return Ranks(rank, size)


def _follow(follow: Callable[[Ranks], None], rank: int, size: int, store: Path, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader hears it, and all stop together
    torch.set_num_threads(threads)
    try:
        follow(_joined(rank, size, store))
    except LostProcessError:
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
