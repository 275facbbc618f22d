"""Stopped and killed runs go on to the bits of a run that was never stopped."""

import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from meta_train.cli import main
from meta_train.training.fit import Trainer
from meta_train.training.saving import NoCheckpointError, load_checkpoint, save_checkpoint
from tests.meta_train.training.runs import command, differences, outcome

EVERYTHING = [
    *("--auto-augment", "rand-m9-mstd0.5-inc1", "--repeats", "2", "--random-erasing", "0.25"),
    *(
        "--mixup",
        "0.8",
        "--cutmix",
        "1.0",
        "--label-smoothing",
        "0.1",
        "--dropout",
        "0.1",
        "--drop-path",
        "0.1",
    ),
    *("--ema", "0.9", "--amp", "bf16", "--channels-last", "--accumulate", "2", "--clip-grad", "1.0"),
    *("--layer-decay", "0.8", "--weight-decay", "0.05", "--warmup-lr", "1e-5", "--min-lr", "1e-5"),
]
KILL = """
import os, signal, sys
from meta_train.cli import main
from meta_train.training import saving
write, calls = saving.torch.save, iter(range(100))

def save(state, file):
    if next(calls) == 4:
        file.write(b"half a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(state, file)

saving.torch.save = save
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def unstopped(jpegs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unstopped")
    assert main(command(jpegs, out, *EVERYTHING)) == 0
    return out


def test_a_killed_run_goes_on_to_the_same_bits(jpegs: Path, unstopped: Path, tmp_path: Path) -> None:
    run = command(jpegs, tmp_path, *EVERYTHING, "--checkpoint-every", "1")
    killed = subprocess.run([sys.executable, "-c", KILL, *run], capture_output=True)
    assert killed.returncode == -9
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["trainer"]["progress"]["step"] == 3
    assert main([*run, "--resume", "--workers", "2"]) == 0
    assert differences(outcome(tmp_path), outcome(unstopped)) == []


@pytest.mark.parametrize("stop_after", ["1", "3", "5"])
def test_a_stopped_run_goes_on_to_the_same_bits(
    jpegs: Path, unstopped: Path, tmp_path: Path, stop_after: str
) -> None:
    run = command(jpegs, tmp_path, *EVERYTHING)
    assert main([*run, "--stop-after", stop_after]) == 0
    assert outcome(tmp_path)["state"]["progress"]["step"] == int(stop_after)
    assert main([*run, "--stop-after", stop_after, "--resume"]) == 0
    assert outcome(tmp_path)["state"]["progress"]["step"] == int(stop_after)
    assert main([*run, "--resume"]) == 0
    assert differences(outcome(tmp_path), outcome(unstopped)) == []


def test_a_new_run_leaves_no_checkpoint_of_the_one_before(
    jpegs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = command(jpegs, tmp_path, *EVERYTHING)
    assert main([*run, "--stop-after", "2"]) == 0

    def killed(_: Trainer, *__: Any) -> None:
        raise SystemExit(9)

    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(SystemExit):
        main([*run, "--stop-after", "1"])
    assert not list(tmp_path.glob("checkpoint*"))


def test_ctrl_c_saves_and_says_how_to_go_on(
    jpegs: Path,
    unstopped: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(trainer: Trainer, *arguments: Any) -> None:
        step(trainer, *arguments)
        signal.raise_signal(signal.SIGINT)

    step, run = Trainer._step, command(jpegs, tmp_path, *EVERYTHING)
    monkeypatch.setattr(Trainer, "_step", interrupted)
    assert main(run) == 130
    monkeypatch.undo()
    message = capsys.readouterr().err
    assert "Stopped after step 1, in epoch 1 of 2, and saved" in message
    again = message.strip().partition("To go on: learned-opt ")[2]
    assert main(shlex.split(again)) == 0
    assert differences(outcome(tmp_path), outcome(unstopped)) == []


def test_a_finished_run_stays_as_it_is(jpegs: Path, unstopped: Path) -> None:
    before = outcome(unstopped)
    assert main([*command(jpegs, unstopped, *EVERYTHING), "--resume"]) == 0
    assert differences(outcome(unstopped), before) == []


def test_a_run_on_arrays_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    run = [
        "train",
        "--opt",
        "adamw",
        "--epochs",
        "2",
        "--batch-size",
        "718",
        "--dropout",
        "0.1",
        "--mixup",
        "0.8",
    ]
    assert main([*run, "--out", str(tmp_path / "whole"), "--log-every", "1"]) == 0
    again = [*run, "--out", str(tmp_path / "stopped"), "--log-every", "1"]
    assert main([*again, "--stop-after", "3"]) == 0
    assert main([*again, "--resume"]) == 0
    assert differences(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole")) == []


def test_resuming_needs_the_same_run(
    jpegs: Path, unstopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(jpegs, unstopped, *EVERYTHING), "--resume", "--mixup", "0.5"]) == 1
    assert "mixup was 0.8, now 0.5" in capsys.readouterr().err


def test_resuming_needs_the_same_images(
    own_jpegs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = command(own_jpegs, tmp_path, "--opt", "sgd", "--lr", "0.1", "--stop-after", "1")
    assert main(run) == 0
    (own_jpegs / "train/red/0.jpg").write_bytes((own_jpegs / "train/red/1.jpg").read_bytes())
    assert main([*run, "--resume"]) == 1
    assert "read was" in capsys.readouterr().err


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in range(4):
        save_checkpoint(tmp_path, {"lr": 1}, {"step": step})
        assert load_checkpoint(tmp_path, {"lr": 1})["step"] == step
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-previous.pt", "checkpoint.pt"]
    (tmp_path / "checkpoint.pt").write_bytes(b"spoilt")
    assert load_checkpoint(tmp_path, None)["step"] == 2
    (tmp_path / "checkpoint-previous.pt").write_bytes(b"spoilt")
    with pytest.raises(NoCheckpointError, match=r"checkpoint-previous\.pt: "):
        load_checkpoint(tmp_path, None)


def test_where_nothing_was_saved_a_run_starts(jpegs: Path, tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, {}) is None
    assert (
        main([*command(jpegs, tmp_path, "--opt", "sgd", "--lr", "0.1"), "--stop-after", "1", "--resume"]) == 0
    )
