"""Checkpoints that are damaged, written twice, or find the disk full."""

import dataclasses
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from meta_train.log import read_log
from meta_train.loop import meta_train
from meta_train.state import MAIN, CheckpointFailedError
from meta_train.trainer import MetaTrainer
from tests.contract.killing import MICRO, outcome, same


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A file system of its own, and what sets its size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(size: str, *options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}"]), "tmpfs", str(folder)]
        subprocess.run(command, check=True, capture_output=True)

    try:
        sized("4m")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")
    yield folder, lambda size: sized(size, "remount")
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.filterwarnings(  # TensorBoard's own thread, which may come to the full disk first
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)
@pytest.mark.parametrize("spare", [0, 4, 30, 60])
def test_a_disk_that_fills_up_stops_the_run_which_resumes_once_there_is_room(
    small_disk, tmp_path, spare
) -> None:
    disk, resize = small_disk
    out = disk / "run"

    def fill(progress: object) -> None:
        if not (disk / "ballast").exists():
            with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            with (disk / "ballast").open("r+b") as file:
                file.truncate((disk / "ballast").stat().st_size - 1024 * spare)

    with pytest.raises(OSError, match="No space left on device"):
        meta_train(MICRO, out, on_progress=fill)
    whole = [path for path in (out / "state").iterdir() if path.name.isdigit()]
    assert whole
    (disk / "ballast").unlink()
    resize("16m")
    meta_train(MICRO, out, resume=True)
    meta_train(MICRO, tmp_path / "straight")
    assert same(outcome(out), outcome(tmp_path / "straight"))


def test_a_checkpoint_that_fails_after_ctrl_c_is_not_said_to_be_saved(tmp_path, monkeypatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError("No space left on device")

    def interrupt(progress: object) -> None:
        monkeypatch.setattr("meta_train.state.atomic_write_bytes", full)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(CheckpointFailedError, match="the last good one is of outer step 1"):
        meta_train(MICRO, tmp_path / "run", on_progress=interrupt)


def test_a_run_of_before_a_field_was_added_is_resumed(tmp_path) -> None:
    config = dataclasses.replace(MICRO, outer_steps=1)
    meta_train(config, tmp_path)
    main = tmp_path / "state" / "000000001" / MAIN
    record = torch.load(main, weights_only=True)
    saved = json.loads(record["config"])
    del saved["final_share"], saved["rule"]["default_lr"], saved["rule"]["memory"]["reading"]
    torch.save({**record, "config": json.dumps(saved)}, main)
    meta_train(dataclasses.replace(config, outer_steps=2), tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"final_share was 0.1, now 0.5"):
        meta_train(dataclasses.replace(config, final_share=0.5), tmp_path, resume=True)


@pytest.mark.parametrize("damaged", [MAIN, "unit-00001.pt"])
def test_a_checkpoint_with_a_damaged_file_is_passed_over_and_written_anew(tmp_path, damaged) -> None:
    config = dataclasses.replace(MICRO, outer_steps=3)
    straight, out = tmp_path / "straight", tmp_path / "run"
    for folder in (straight, out):
        meta_train(config, folder)
    expected = outcome(straight)
    file = out / "state" / "000000003" / damaged
    whole = len(file.read_bytes())
    file.write_bytes(file.read_bytes()[: whole // 2])
    with pytest.warns(UserWarning, match="000000003 cannot be read and is passed over"):
        trainer = MetaTrainer(config, out, resume=True)
    assert trainer.step == 2
    trainer.advance()
    trainer.log.close()
    assert same(outcome(out), expected)
    assert sorted(path.name for path in (out / "state").iterdir()) == ["000000002", "000000003"]
    assert len(read_log(out)) == 3
