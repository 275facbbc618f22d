"""Streams, with a reader in place of those of packages that are not installed."""

import random
from pathlib import Path

import pytest
from PIL import Image
from timm.data import IterableImageDataset

from meta_train.cli import main
from meta_train.training.recipes import RECIPES
from tests.meta_train.training.runs import COLOURS, command, differences, outcome


class Reader:
    """Images of three colours, shuffled by seed and epoch; each worker gets whole batches, as from timm's."""

    def __init__(self, count: int, seed: int, labels: int = 3) -> None:
        self.count, self.seed, self.labels, self.epoch = count, seed, labels, 0

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        order = list(range(self.count))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        batches = [order[first : first + 12] for first in range(0, self.count, 12)]
        mine = batches[info.id :: info.num_workers] if info else batches
        for index in (index for batch in mine for index in batch):
            if self.labels == 0:
                raise OSError(f"shard {index} ends early")
            yield Image.new("RGB", (24, 24), list(COLOURS.values())[index % 3]), index % self.labels


@pytest.fixture
def stream(monkeypatch):
    """Lets timm open a stream of so many labels."""

    def patch(labels):
        def create(name, *, split, seed, **_):
            return IterableImageDataset(None, reader=Reader(36 if split == "train" else 12, seed, labels))

        monkeypatch.setattr("timm.data.create_dataset", create)

    return patch


def run(out: Path, *options: str) -> list[str]:
    augmented = ["--auto-augment", "rand-m9", "--mixup", "0.5", "--classes", "3", "--opt", "adamw"]
    return command(Path("wds/none"), out, *augmented, *options)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_stopped_stream_goes_on_to_the_same_bits(stream, tmp_path, workers):
    stream(3)
    for name, stops in (("whole", []), ("stopped", ["--stop-after", "4"])):
        assert main(run(tmp_path / name, "--workers", workers, *stops)) == 0
    assert outcome(tmp_path / "stopped")["state"]["progress"]["step"] == 4
    assert main(run(tmp_path / "stopped", "--workers", workers, "--resume")) == 0
    assert differences(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole")) == []


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(("labels", "expected"), [(4, "has label 3; expected 0 to 2"), (0, "ends early")])
def test_a_spoilt_stream_ends_the_run(stream, tmp_path, capsys, workers, labels, expected):
    stream(labels)
    assert main(run(tmp_path, "--workers", workers)) == 1
    message = capsys.readouterr().err
    assert expected in message
    assert "Traceback" not in message


def test_copies_of_an_image_are_refused_but_for_a_recipes_of_which_a_line_tells(stream, tmp_path, capsys):
    stream(3)
    assert main(run(tmp_path, "--repeats", "3")) == 1
    expected = "wds/none, a stream, does not use --repeats 3 (for image files that are read in any order)"
    assert expected in capsys.readouterr().err
    recipe = ["vit-small-images", "--recipe", next(iter(RECIPES)), "--opt", "adamw"]
    small = ["--classes", "3", "--amp", "off", "--stop-after", "1"]
    assert main(command(Path("wds/none"), tmp_path, *recipe, *small)) == 0
    assert "gives one copy of an image in a batch, not the recipe's 3." in capsys.readouterr().out


def test_a_stream_must_tell_its_classes(stream, tmp_path, capsys):
    stream(3)
    assert main([*command(Path("wds/none"), tmp_path)]) == 1
    assert "give their number as --classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--accumulate", "5"], "batch_size is 12; expected a multiple of 5"),
        (["--batch-size", "64"], "the stream has 36 images, too few for a step of 64"),
    ],
)
def test_a_step_that_cannot_be_had_is_refused(stream, tmp_path, capsys, options, expected):
    stream(3)
    assert main(run(tmp_path, *options)) == 1
    assert expected in capsys.readouterr().err
