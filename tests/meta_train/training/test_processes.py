"""Two processes under torchrun train as one does on the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from meta_train.cli import main
from tests.meta_train.training.runs import command, outcome


def torchrun(run: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command line in two processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "meta_train.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launch, *run], capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.mark.slow
def test_two_processes_equal_one_which_can_go_on(own_jpegs: Path, tmp_path: Path) -> None:
    (own_jpegs / "validation/red/0.jpg").write_bytes(b"no image")
    options = ["--opt", "sgd", "--lr", "0.05", "--accumulate", "2", "--ema", "0.5", "--max-broken", "0.1"]
    alone, together = (command(own_jpegs, tmp_path / name, *options) for name in ("one", "two"))
    assert main(alone) == 0
    done = torchrun([*together, "--stop-after", "4"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/2") == 1
    assert "1 of 12 validation images cannot be read: red/0.jpg" in done.stdout.replace("\n", " ")
    assert json.loads((tmp_path / "two/config.json").read_text())["processes"] == 2
    assert main([*together, "--resume"]) == 0
    one, two = outcome(tmp_path / "one"), outcome(tmp_path / "two")
    for kind in ("model", "ema"):
        for name, tensor in one["state"][kind].items():
            torch.testing.assert_close(two["state"][kind][name], tensor, atol=1e-5, rtol=1e-4)
    for left, right in zip(one["lines"], two["lines"], strict=True):
        assert left == pytest.approx(right, rel=1e-3, abs=1e-6)
