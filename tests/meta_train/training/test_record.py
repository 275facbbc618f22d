"""What a new run in an old folder leaves there."""

import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_train.cli import main
from tests.meta_train.training.runs import command

SGD = ("--opt", "sgd", "--lr", "0.1", "--epochs", "1", "--stop-after", "1")


def steps(out) -> list[int]:
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return [scalar.step for scalar in events.Scalars("loss")]


def test_a_new_run_drops_events_and_files_of_the_one_before(jpegs, tmp_path):
    assert main(command(jpegs, tmp_path, *SGD)) == 0
    assert (tmp_path / "files.tsv.gz").exists()
    mine = tmp_path / "tensorboard/notes.txt"
    mine.write_text("mine")
    assert main(["train", *SGD, "--batch-size", "700", "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "files.tsv.gz").exists()
    assert json.loads((tmp_path / "config.json").read_text())["options"]["data"] == "digits"
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) == 1
    assert mine.exists()
    assert steps(tmp_path) == [1]


def test_a_resumed_run_keeps_them(jpegs, tmp_path):
    assert main(command(jpegs, tmp_path, *SGD)) == 0
    assert main([*command(jpegs, tmp_path, *SGD), "--stop-after", "2", "--resume"]) == 0
    assert (tmp_path / "files.tsv.gz").exists()
    assert steps(tmp_path) == [1, 2]
