"""What several processes must agree on: draws, statistics, checkpoints, broken images, and when to stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from meta_train.cli import main
from meta_train.training.processes import GroupInterruptFlag
from tests.meta_train.training.runs import command, differences, outcome, write_images
from tests.meta_train.training.several import BROKEN, SGD

ROOT = Path(__file__).parents[3]
LIMIT = 300.0
DIE_ONCE = """
import os, signal, sys
from meta_train.cli import main
from meta_train.training import fit

def step(trainer, *arguments):
    done(trainer, *arguments)
    first = os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and trainer.progress.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)

done, fit.Trainer._step = fit.Trainer._step, step
sys.exit(main(sys.argv[1:]))
"""


def torchrun(*run: str) -> subprocess.Popen[str]:
    """Two processes, in a group of their own as from a terminal."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launch, *run],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cases leave their runs, beside ``images``."""
    folder = tmp_path_factory.mktemp("several")
    write_images(folder / "images")
    return folder


@pytest.fixture(scope="module")
def met(folder: Path) -> dict[str, list[Any]]:
    """What each process met, by case."""
    run = torchrun("-m", "tests.meta_train.training.several", str(folder / "images"), str(folder))
    printed, errors = run.communicate(timeout=LIMIT)
    assert run.returncode == 0, errors[-5000:]
    return dict(json.loads(line) for line in printed.splitlines() if line.startswith("["))


@pytest.mark.slow
def test_an_optimizer_that_draws_keeps_the_weights_of_the_processes_together(met, folder) -> None:
    assert met["draws"] == [0.0, 0.0]
    assert differences(outcome(folder / "draws-4"), outcome(folder / "draws")) == []


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 5])
def test_statistics_of_batch_norm_are_those_of_the_checkpoint(met, folder, step) -> None:
    assert differences(outcome(folder / f"norm-{step}"), outcome(folder / "norm")) == []


@pytest.mark.slow
def test_processes_that_find_different_checkpoints_refuse_and_keep_them(met, folder) -> None:
    for told in met["own_folders"]:
        for refusal in told:
            assert refusal.startswith("NoCheckpointError: the processes found different checkpoints in ")
            assert refusal.endswith("; the folder must be shared")
    assert (folder / "shared/checkpoint.pt").exists()


@pytest.mark.slow
def test_what_one_process_refuses_all_do(met) -> None:
    first, second = met["other_options"]
    assert first.endswith("shared holds a run of another configuration: epochs was 2, now 3")
    assert second.startswith("NoCheckpointError: another process refuses the checkpoint in ")


@pytest.mark.slow
def test_an_optimizer_of_second_order_needs_one_process(met) -> None:
    refusal = "ValueError: Adahessian differentiates gradients; expected one process, not 2"
    assert met["second_order"] == [refusal, refusal]


@pytest.mark.slow
def test_what_one_process_wishes_all_do_after_the_next_step(met, folder) -> None:
    assert met["wish"] == [[True, 2], [True, 2]]
    assert outcome(folder / "wish")["state"]["progress"]["step"] == 2


@pytest.mark.slow
def test_a_checkpoint_within_an_epoch_has_the_broken_images_of_all(met, folder) -> None:
    assert main(command(folder / "images", folder / "alone", *BROKEN)) == 0
    alone, together = (
        torch.load(folder / name / "checkpoint.pt", weights_only=True)["broken"]["train"]
        for name in ("alone", "broken")
    )
    assert met["broken_images"] == [together, together]
    assert together == alone


@pytest.mark.slow
def test_a_lost_process_is_replaced_and_ctrl_c_saves(jpegs: Path, tmp_path: Path) -> None:
    out, script = tmp_path / "run", tmp_path / "die_once.py"
    script.write_text(DIE_ONCE)
    options = command(jpegs, out, *SGD, "--epochs", "100000")
    run = torchrun("--max-restarts", "1", str(script), *options)
    log, until = out / "log.jsonl", time.monotonic() + LIMIT
    while not log.exists() or log.read_text().count("\n") < 8:
        assert run.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    printed, errors = run.communicate(timeout=LIMIT)
    assert printed.count("Going on after step 3.") == 1, errors[-5000:]
    step = outcome(out)["state"]["progress"]["step"]
    assert json.loads(log.read_text().splitlines()[-1])["step"] == step >= 8
    assert errors.count(f"learned-opt: Stopped after step {step}, in epoch ") == 1
    assert "To go on, under torchrun as before: learned-opt train --resume --data" in errors


@pytest.mark.usefixtures("handler")
def test_what_torchrun_passes_on_is_no_second_ctrl_c() -> None:
    heard: list[str] = []
    with GroupInterruptFlag(lambda: heard.append("heard")) as flag:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert flag.raised
    assert heard == ["heard"]
