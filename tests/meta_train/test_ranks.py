"""However many processes share a run, and whatever becomes of them, it ends with the same bits."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from meta_train.commands.running import run_with_display
from meta_train.config import MetaTrainConfig
from meta_train.log import read_log
from meta_train.loop import meta_train
from meta_train.ranks import Ranks
from meta_train.state import CheckpointFailedError
from tests.contract.killing import MICRO, finish, outcome, same, server, start

SHARED = dataclasses.replace(
    MICRO, outer_steps=50, pairs=4, unit_pairs=2, truncation=3, horizon=(3, 10), validation_every=20
)
"""Four units, whose episodes end inside windows too."""
LIMIT = 300.0


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    server()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process makes of `SHARED`."""
    out = tmp_path_factory.mktemp("alone")
    return outcome(run_with_display(SHARED, out, workers=1))


def torchrun(config: MetaTrainConfig, out: Path, *, size: int, restarts: int = 0) -> subprocess.Popen[str]:
    """A run by the command line under torchrun."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", str(restarts)]
    command = ["--nproc-per-node", str(size), "-m", "meta_train", "meta-train", "tiny", "--out", str(out)]
    return subprocess.Popen(
        [*launch, *command, *options(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def options(config: MetaTrainConfig) -> list[str]:
    """A configuration on the command line."""
    given = []
    for name, value in config.as_json().items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            given.append(f"--{option}" if value else f"--no-{option}")
        elif name != "rule" and value not in ("", []):
            values = value if isinstance(value, list) else [value]
            given += [f"--{option}", *map(str, values)]
    return given


def workers(launcher: int) -> list[int]:
    """Processes that a torchrun has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(pid) for pid in children if b"meta-train" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def reach(out: Path, step: int, alive: Callable[[], bool]) -> None:
    """Wait until a run has done an outer step."""
    until = time.monotonic() + LIMIT
    while len(read_log(out)) < step:
        assert time.monotonic() < until
        assert alive()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_give_the_bits_of_one(alone, tmp_path, size) -> None:
    assert same(outcome(run_with_display(SHARED, tmp_path / "run", workers=size)), alone)
    record = read_log(tmp_path / "run")[-1]
    pairs = SHARED.unit_pairs * len(SHARED.units) // size
    assert record["bytes_sent"] == (size - 1) * 4 * (7 * pairs + 2 * len(SHARED.units) // size)


@pytest.mark.parametrize("estimator", ["nres", "backprop"])
def test_other_estimators_do_too(tmp_path, estimator) -> None:
    config = dataclasses.replace(SHARED, estimator=estimator, outer_steps=6)
    one, two, four = (
        outcome(run_with_display(config, tmp_path / str(size), workers=size)) for size in (1, 2, 4)
    )
    assert same(one, two)
    assert same(one, four)


@pytest.mark.slow
def test_under_torchrun_they_do_too(alone, tmp_path) -> None:
    run = torchrun(SHARED, tmp_path / "run", size=4)
    printed, _ = run.communicate(timeout=LIMIT)
    assert run.returncode == 0, printed
    assert same(outcome(tmp_path / "run"), alone)


@pytest.mark.slow
def test_a_group_whose_first_worker_is_killed_restarts_by_itself(alone, tmp_path) -> None:
    run = torchrun(SHARED, tmp_path / "run", size=2, restarts=2)
    reach(tmp_path / "run", 20, lambda: run.poll() is None)
    os.kill(workers(run.pid)[0], signal.SIGKILL)
    printed, _ = run.communicate(timeout=LIMIT)
    assert run.returncode == 0, printed
    assert same(outcome(tmp_path / "run"), alone)


@pytest.mark.slow
def test_ctrl_c_stops_all_workers_after_one_step_and_one_process_goes_on(alone, tmp_path) -> None:
    out = tmp_path / "run"
    run = torchrun(dataclasses.replace(SHARED, checkpoint_seconds=1000.0), out, size=2)
    reach(out, 5, lambda: run.poll() is None)
    run.send_signal(signal.SIGINT)
    printed, _ = run.communicate(timeout=LIMIT)
    assert "Stopped and saved" in printed
    assert "Traceback" not in printed.split("Stopped and saved")[0]
    stopped = max(int(path.name) for path in (out / "state").iterdir())
    assert 5 <= stopped == read_log(out)[-1]["step"] < SHARED.outer_steps
    run_with_display(dataclasses.replace(SHARED, checkpoint_seconds=1000.0), out, workers=1, resume=True)
    assert same(outcome(out), alone)


def test_ctrl_c_stops_a_local_group_and_another_number_of_processes_goes_on(alone, tmp_path) -> None:
    out = tmp_path / "run"
    config = dataclasses.replace(SHARED, checkpoint_seconds=1000.0)
    process = start(config, out, size=2)
    reach(out, 5, process.is_alive)
    os.kill(process.pid or 0, signal.SIGINT)
    assert finish(process) == 130
    stopped = max(int(path.name) for path in (out / "state").iterdir())
    assert 5 <= stopped == read_log(out)[-1]["step"] < SHARED.outer_steps
    run_with_display(config, out, workers=4, resume=True)
    assert same(outcome(out), alone)


def test_more_processes_than_units_are_refused_before_anything_is_compiled(tmp_path, monkeypatch) -> None:
    def unit(*_: object, **__: object) -> None:
        raise AssertionError("built before the check")

    monkeypatch.setattr("meta_train.fleet.Unit", unit)
    with pytest.raises(ValueError, match="5 processes for 4 units of 2 pairs"):
        run_with_display(SHARED, tmp_path / "run", workers=5)


def test_a_folder_that_is_not_free_is_refused_before_processes_start(tmp_path, monkeypatch) -> None:
    def group(*_: object, **__: object) -> None:
        raise AssertionError("started before the check")

    monkeypatch.setattr("meta_train.commands.running.local_group", group)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds config\.json"):
        run_with_display(SHARED, tmp_path, workers=2)


def test_under_torchrun_its_number_of_processes_counts(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    config = dataclasses.replace(SHARED, outer_steps=1)
    run_with_display(config, tmp_path / "run", workers=2)
    assert read_log(tmp_path / "run")[-1]["bytes_sent"] == 0


@pytest.mark.parametrize(
    ("rank", "variables", "name", "device"),
    [
        (1, {}, "cuda", "cuda:1"),
        (5, {}, "cuda", "cuda:1"),
        (5, {"LOCAL_RANK": "2"}, "cuda", "cuda:2"),
        (1, {}, "cuda:3", "cuda:3"),
        (1, {}, "cpu", "cpu"),
    ],
)
def test_processes_with_gpus_take_each_its_own(tmp_path, monkeypatch, rank, variables, name, device) -> None:
    class Begun(Exception):  # noqa: N818
        pass

    def trainer(*_: object, device: str, **__: object) -> None:
        raise Begun(device)

    taken: list[str] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.set_device", lambda number: taken.append(f"cuda:{number}"))
    monkeypatch.setattr("meta_train.loop.MetaTrainer", trainer)
    monkeypatch.setattr(Ranks, "all_or_none", lambda self: nullcontext())
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(Begun, match=f"^{device}$"):
        meta_train(SHARED, tmp_path, ranks=Ranks(rank, 8), device=name)
    assert taken == ([device] if name == "cuda" else [])


def test_a_process_alone_takes_the_device_that_is_named() -> None:
    assert Ranks().take_device("cuda") == "cuda"


def test_processes_that_compute_other_numbers_are_found_before_they_are_saved(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Ranks, "same", lambda self, number: False)
    with pytest.raises(CheckpointFailedError, match=r"computed different numbers.*there is none before"):
        run_with_display(dataclasses.replace(SHARED, outer_steps=1), tmp_path / "run", workers=1)


def test_numbers_are_compared_to_the_last_bit() -> None:
    class Two(Ranks):
        def gather(self, numbers: torch.Tensor) -> list[torch.Tensor]:
            return [numbers, torch.full_like(numbers, 2**48 - 1)]

    assert Two().same(2**48 - 1)
    assert not Two().same(2**48 - 2)
