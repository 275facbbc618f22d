"""Run by torchrun: every case of this number of processes, one line of JSON each.

A line holds the case, the optimizer and the figures, each the worst of all processes.
"""

import json
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.distributed import harness
from tests.distributed.catalogue import CASES
from tests.distributed.harness import Case, Figures, Make


def main(folder: str, *wanted: str) -> None:
    """Run the cases.

    Args:
        folder: Where cases leave files for those of another number of processes.
        wanted: Names of cases, all by default.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    harness.FOLDER = Path(folder)
    for name, (case, ranks, optimizers) in CASES.items():
        if dist.get_world_size() in ranks and (not wanted or name in wanted):
            for optimizer in optimizers:
                report(name, optimizer, attempt(case, harness.OPTIMIZERS[optimizer]))
    dist.barrier()
    dist.destroy_process_group()


def attempt(case: Case, make: Make) -> Figures | str:
    """The case's figures, or how it failed."""
    try:
        return case(make)
    except Exception:
        return traceback.format_exc()


def report(name: str, optimizer: str, mine: Figures | str) -> None:
    """Print the worst of every process."""
    everyone: list[Figures | str] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    if dist.get_rank() != 0:
        return
    failures = [each for each in everyone if isinstance(each, str)]
    if failures:
        line = {"error": failures[0]}
    else:
        line = {"figures": {key: max(each[key] for each in everyone) for key in everyone[0]}}
    print(json.dumps({"case": name, "optimizer": optimizer, **line}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
