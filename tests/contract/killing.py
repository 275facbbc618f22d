"""Meta-training runs in processes of their own that can be killed anywhere."""

import os
import signal
import sys
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from meta_train import local_group as groups
from meta_train.config import MetaTrainConfig
from meta_train.log import read_log
from meta_train.loop import Interrupted, follow, meta_train
from meta_train.ranks import LostProcessError, Ranks
from meta_train.state import has_state

MICRO = MetaTrainConfig(
    families=("quadratic-noisy", "rastrigin-lois"),
    outer_steps=6,
    pairs=2,
    truncation=2,
    horizon=(2, 8),
    validation=("quadratic",),
    validation_every=3,
    validation_steps=4,
    compiled=False,
    checkpoint_seconds=1e-9,
)
CHANGES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod")
"""What a run does to files, each a place to die before."""


def server() -> ForkServerContext:
    """A process that has imported everything, and forks what is started."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def start(
    config: MetaTrainConfig, out: Path, *, size: int = 1, lead_dies: int = 0, follower_dies: int = 0
) -> BaseProcess:
    """Begin or resume a run, in a process.

    Args:
        config: Of the run.
        out: Its folder.
        size: Processes in all.
        lead_dies: Kill the first process before the so-manieth thing that it does to a file of the run, from
            1; 0 for never.
        follower_dies: The same for the second.
    """
    process = server().Process(target=_lead, args=(config, out, size, lead_dies, follower_dies))
    process.start()
    return process


def finish(process: BaseProcess, *, seconds: float = 300.0) -> int:
    """The exit code of a process, once it has ended."""
    process.join(seconds)
    assert process.exitcode is not None
    return process.exitcode


def outcome(out: Path) -> dict[str, Any]:
    """What runs of one configuration must agree on to the bit; seconds and bytes sent are not of it."""
    newest = max((path for path in (out / "state").iterdir()), key=lambda path: path.name)
    state = torch.load(newest / "main.pt", weights_only=True)["state"]
    del state["seconds"]
    log = read_log(out)
    for record in log:
        del record["seconds"], record["bytes_sent"]
    units = {path.name: torch.load(path, weights_only=True) for path in newest.glob("unit-*.pt")}
    return {"state": state, "units": units, "log": log, "export": (out / "model.safetensors").read_bytes()}


def same(one: Any, other: Any) -> bool:
    """Whether two outcomes, or parts of them, are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _lead(config: MetaTrainConfig, out: Path, size: int, lead_dies: int, follower_dies: int) -> None:
    groups._context = lambda: get_context("fork")
    resume = has_state(out)
    join = partial(_follow, config, out, resume, follower_dies)
    _die_before(lead_dies, out)
    try:
        with groups.local_group(size, join, threads=1) as ranks:
            meta_train(config, out, resume=resume, ranks=ranks)
    except LostProcessError as error:
        (out.parent / "lost").write_text(str(error))
        sys.exit(1)
    except Interrupted:
        sys.exit(130)


def _follow(config: MetaTrainConfig, out: Path, resume: bool, dies: int, ranks: Ranks) -> None:
    (out.parent / f"follower-{ranks.rank}").write_text(str(os.getpid()))
    _die_before(dies if ranks.rank == 1 else 0, out)
    follow(config, out, ranks, resume=resume, device="cpu")


def _die_before(count: int, out: Path) -> None:
    """Die by SIGKILL before the so-manieth change of a file of a run."""
    left = count

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES and (str(out) in str(arguments[0]) or event in ("os.remove", "os.rmdir")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if count:
        sys.addaudithook(hook)
