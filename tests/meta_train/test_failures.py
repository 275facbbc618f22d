"""What one process of several meets ends the run on all of them, with its own words."""

import dataclasses
import os
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

from meta_train.config import MetaTrainConfig
from meta_train.local_group import local_group
from meta_train.loop import follow, meta_train
from meta_train.ranks import ProcessFailedError, Ranks
from meta_train.state import CheckpointFailedError, saved_step
from meta_train.trainer import DivergedError
from meta_train.unit import Unit
from tests.contract.killing import MICRO

LATE = """
import sys
import time
from meta_train.cli import main
from meta_train.ranks import Ranks
from meta_train.unit import Unit

evolve, first_error, windows = Unit.evolve, Ranks.first_error, 0

def failing(unit, *arguments):
    global windows
    windows += unit.index == 1
    if windows == 3:
        raise OSError("red/0.jpg cannot be read")
    return evolve(unit, *arguments)

def late(ranks, error):
    said = first_error(ranks, error)
    time.sleep(6 if said and ranks.rank == 0 else 0)
    return said

Unit.evolve, Ranks.first_error = failing, late
sys.exit(main(sys.argv[1:]))
"""


def refuse(ranks: Ranks) -> None:
    with ranks.all_or_none():
        raise ValueError("no")


def join(config: MetaTrainConfig, out: Path, variables: dict[str, str], ranks: Ranks) -> None:
    os.environ.update(variables)
    follow(config, out, ranks, resume=False, device="cpu")


def resume(config: MetaTrainConfig, out: Path, ranks: Ranks) -> None:
    follow(config, out, ranks, resume=True, device="cpu")


def fail_late(config: MetaTrainConfig, out: Path, method: str, ranks: Ranks) -> None:
    done, windows = getattr(Unit, method), count(1)

    def failing(unit: Unit, *arguments: object) -> object:
        if next(windows) == 3:
            raise OSError("red/0.jpg cannot be read")
        return done(unit, *arguments)

    setattr(Unit, method, failing)
    follow(config, out, ranks, resume=False, device="cpu")


def fail(error: Exception, *_: object, **__: object) -> None:
    raise error


def test_a_block_that_one_process_cannot_pass_raises_the_first_error_on_all() -> None:
    threads = torch.get_num_threads()
    with (
        local_group(3, refuse, threads=threads) as ranks,
        pytest.raises(ProcessFailedError, match="process 1: no"),
        ranks.all_or_none(),
    ):
        pass
    with (
        local_group(2, refuse, threads=threads) as ranks,
        pytest.raises(ProcessFailedError, match=r"^out of images$"),
        ranks.all_or_none(),
    ):
        raise OSError("out of images")


def test_data_that_only_a_follower_misses_are_named_before_the_run_begins(tmp_path) -> None:
    config = dataclasses.replace(MICRO, validation=("quadratic", "fashion-8-mlp"))
    out, variables = tmp_path / "run", {"FASHION_MNIST_FOLDER": "/nowhere"}
    with (
        local_group(2, partial(join, config, out, variables), threads=1) as ranks,
        pytest.raises(ProcessFailedError, match=r"^process 1: /nowhere/.*install Fashion-MNIST"),
    ):
        meta_train(config, out, ranks=ranks)
    assert not (out / "state").exists()


def test_a_follower_that_resumes_another_configuration_says_so_on_all(tmp_path) -> None:
    meta_train(dataclasses.replace(MICRO, outer_steps=1), tmp_path)
    other = dataclasses.replace(MICRO, sigma=0.02)
    with (
        local_group(2, partial(resume, other, tmp_path), threads=1) as ranks,
        pytest.raises(ProcessFailedError, match=r"process 1: .* sigma was 0\.01, now 0\.02"),
    ):
        meta_train(MICRO, tmp_path, resume=True, ranks=ranks)


def test_a_folder_that_only_the_first_process_sees_is_refused_at_the_first_checkpoint(tmp_path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    with (
        local_group(2, partial(join, MICRO, theirs, {}), threads=1) as ranks,
        pytest.raises(CheckpointFailedError, match=r"at outer step 0 .*do not see one folder at .*mine"),
    ):
        meta_train(MICRO, mine, ranks=ranks)
    assert not [*mine.glob("state/*"), *theirs.glob("state/*")]


@pytest.mark.parametrize(("estimator", "method"), [("pes", "evolve"), ("backprop", "backpropagate")])
def test_what_a_follower_meets_in_a_later_step_is_said_on_all(tmp_path, estimator, method) -> None:
    config = dataclasses.replace(MICRO, estimator=estimator)
    with (
        local_group(2, partial(fail_late, config, tmp_path, method), threads=1) as ranks,
        pytest.raises(ProcessFailedError, match=r"^process 1: red/0\.jpg cannot be read$"),
    ):
        meta_train(config, tmp_path, ranks=ranks)
    assert saved_step(tmp_path) == 2


def test_a_process_alone_raises_what_it_meets(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Unit, "evolve", partial(fail, OSError("red/0.jpg cannot be read")))
    with pytest.raises(OSError, match=r"^red/0\.jpg cannot be read$"):
        meta_train(MICRO, tmp_path)


def test_a_follower_says_what_it_alone_met(monkeypatch, capsys) -> None:
    monkeypatch.setattr("meta_train.loop.meta_train", partial(fail, OSError("red/0.jpg cannot be read")))
    with pytest.raises(SystemExit, match="1"):
        follow(MICRO, Path("run"), Ranks(1, 2), resume=False, device="cpu")
    assert capsys.readouterr().err == "process 1: red/0.jpg cannot be read\n"


@pytest.mark.parametrize("error", [ProcessFailedError, CheckpointFailedError, DivergedError])
def test_a_follower_leaves_to_the_first_process_what_ends_all(monkeypatch, capsys, error) -> None:
    monkeypatch.setattr("meta_train.loop.meta_train", partial(fail, error("for all")))
    with pytest.raises(SystemExit, match="1"):
        follow(MICRO, Path("run"), Ranks(1, 2), resume=False, device="cpu")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_under_torchrun_the_first_process_says_an_error_of_a_later_step(tmp_path) -> None:
    script, out = tmp_path / "late.py", tmp_path / "run"
    script.write_text(LATE)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    small = ["--pairs", "2", "--truncation", "2", "--horizon", "2", "8", "--validation-steps", "4"]
    families = ["--families", *MICRO.families, "--validation", *MICRO.validation, "--no-compiled"]
    run = subprocess.run(
        [sys.executable, *launch, "meta-train", "tiny", "--out", str(out), *families, *small],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 1
    assert run.stderr.count("learned-opt: process 1: red/0.jpg cannot be read\n") == 1
    assert "was lost" not in run.stderr
    assert "exitcode  : 0" not in run.stderr
