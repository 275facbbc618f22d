"""Data that cannot be used, each told in one line, and data that can."""

import gc
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meta_train.cli import main
from meta_train.training.broken import readable
from meta_train.training.config import DataConfig
from meta_train.training.opening import open_data
from tests.meta_train.training.runs import command, outcome

timm_leaves_tars_open = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture
def collected():
    """Finalise what a test leaves open while its filters of warnings are in force."""
    yield
    gc.collect()


def tar_of(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname="")
    return path


def opened(data: Path | str, **options):
    return open_data(DataConfig(data=str(data), **options))


@timm_leaves_tars_open
@pytest.mark.usefixtures("collected")
def test_a_folder_a_tar_and_timms_names_give_the_same_images(jpegs, tmp_path):
    (tmp_path / "tars").mkdir()
    for split in ("train", "validation"):
        tar_of(jpegs / split, tmp_path / "tars" / f"{split}.tar")
    root = {"data_root": jpegs}
    forms = [
        opened(jpegs),
        opened(tmp_path / "tars"),
        opened("torch/folder", **root),
        opened("Torch/image_folder", **root),
    ]
    first = forms[0].sources["train"]
    for data in forms:
        source = data.sources["train"]
        assert (data.kind.classes, len(source), len(data.sources["validation"])) == (3, 36, 12)
        labels = sorted((source.read(index)[1], source.read(index)[0].tobytes()) for index in range(36))
        assert labels == sorted((first.read(index)[1], first.read(index)[0].tobytes()) for index in range(36))


@timm_leaves_tars_open
@pytest.mark.usefixtures("collected")
def test_every_fifth_image_of_a_class_validates_without_a_split(jpegs, tmp_path):
    for data in (opened(jpegs / "train"), opened(tar_of(jpegs / "train", tmp_path / "all.tar"))):
        train, validation = data.sources["train"], data.sources["validation"]
        assert (len(train), len(validation)) == (30, 6)
        assert not {train.name(index) for index in range(30)} & {validation.name(index) for index in range(6)}
        assert [validation.read(index)[1] for index in range(6)] == [0, 0, 1, 1, 2, 2]


@timm_leaves_tars_open
@pytest.mark.usefixtures("collected")
def test_training_on_a_tar(jpegs, tmp_path):
    tar = tar_of(jpegs / "train", tmp_path / "all.tar")
    assert main([*command(tar, tmp_path / "run", "--opt", "sgd", "--lr", "0.1"), "--workers", "2"]) == 0
    record = json.loads((tmp_path / "run/config.json").read_text())["data"]
    assert (record["train"]["images"], record["validation"]["images"]) == (30, 6)


def test_manifests_tell_what_was_read(jpegs, own_jpegs):
    same = opened(jpegs).manifests["train"].as_json()
    assert opened(own_jpegs).manifests["train"].as_json() == same
    (own_jpegs / "train/red/3.jpg").write_bytes((own_jpegs / "train/red/3.jpg").read_bytes()[:-1] + b"\0")
    changed = opened(own_jpegs).manifests["train"].as_json()
    assert changed["content_sha256"] != same["content_sha256"]
    assert changed["files_sha256"] == same["files_sha256"]
    (own_jpegs / "train/red/3.jpg").rename(own_jpegs / "train/red/30.jpg")
    assert opened(own_jpegs).manifests["train"].as_json()["files_sha256"] != same["files_sha256"]


def empty_class(folder):
    shutil.rmtree(folder / "train/red")
    (folder / "train/red").mkdir()


def flat(folder):
    for path in list(folder.glob("train/*/*.jpg")):
        path.rename(folder / "train" / f"{path.parent.name}-{path.name}")
    for name in ("blue", "green", "red"):
        (folder / "train" / name).rmdir()


def loose(folder):
    (folder / "train/red/0.jpg").rename(folder / "train/0.jpg")


def lacking(folder):
    shutil.rmtree(folder / "validation/green")


def partial(folder):
    (folder / "train/red/0.jpg").rename(folder / "train/red/0.jpg.part")


def no_images(folder):
    for path in folder.glob("train/*/*.jpg"):
        path.unlink()


def one_class(folder):
    for split in ("train", "validation"):
        shutil.rmtree(folder / split / "red")
        shutil.rmtree(folder / split / "green")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (empty_class, "1 class folder ('red') without images"),
        (flat, "is not labelled: 36 images lie directly in it"),
        (loose, "is not labelled: 1 images lie directly in it"),
        (lacking, "it lacks 1 class ('green')"),
        (partial, "0.jpg.part is half a download"),
        (no_images, "holds no images"),
        (one_class, "has one class, 'blue'"),
    ],
)
def test_a_folder_that_cannot_be_used(own_jpegs, tmp_path, capsys, spoil, expected):
    spoil(own_jpegs)
    assert main(command(own_jpegs, tmp_path / "run")) == 1
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1


def test_half_a_tar_is_refused(jpegs, tmp_path, capsys):
    tar = tar_of(jpegs / "train", tmp_path / "all.tar")
    os.truncate(tar, tar.stat().st_size // 2)
    assert main(command(tar, tmp_path / "run")) == 1
    assert "perhaps an interrupted download" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--data", "/etc/hostname"], "is a file; expected a folder with one subfolder"),
        (["--data", "hfds/no/such"], "needs a package that is not installed"),
        (["--data", "hfids/no/such"], "needs a package that is not installed"),
        (["--data", "torch/nonesuch", "--data-root", "/tmp"], "Unknown torchvision dataset nonesuch"),
        (
            ["--data", "torch/cifar10", "--data-root", "/nonexistent"],
            "torch/cifar10, split train, cannot be opened",
        ),
        (["--data", "nonesuch"], "unknown dataset 'nonesuch'"),
        (["--classes", "2"], "has 3 classes, so that labels go to 2"),
        (["--auto-augment", "rend-m9"], "auto_augment is 'rend-m9'"),
        (["--batch-size", "12", "--accumulate", "5"], "expected a multiple of 5"),
    ],
)
def test_options_that_cannot_be_followed(jpegs, tmp_path, capsys, options, expected):
    assert main([*command(jpegs, tmp_path), *options]) == 1
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_broken_images_are_counted_named_and_skipped(own_jpegs, tmp_path, capsys):
    (own_jpegs / "train/red/0.jpg").write_bytes(b"")
    (own_jpegs / "train/green/1.jpg").write_bytes(b"no image at all")
    whole = (own_jpegs / "train/blue/2.jpg").read_bytes()
    (own_jpegs / "train/blue/2.jpg").write_bytes(whole[: len(whole) // 2])
    (own_jpegs / "validation/red/1.jpg").write_bytes(whole[:20])
    run = [*command(own_jpegs, tmp_path / "run", "--opt", "sgd", "--lr", "0.1"), "--max-broken", "0.1"]
    assert main([*run, "--workers", "2"]) == 0
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "3 of 36 train images cannot be read: blue/2.jpg, green/1.jpg, red/0.jpg" in shown
    assert "1 of 12 validation images cannot be read: red/1.jpg" in shown
    assert outcome(tmp_path / "run")["lines"][1]["broken"] == 4


def test_too_many_broken_images_end_the_run(own_jpegs, tmp_path, capsys):
    for index in range(5):
        (own_jpegs / f"train/red/{index}.jpg").write_bytes(b"no image at all")
    run = [*command(own_jpegs, tmp_path / "run", "--opt", "sgd", "--lr", "0.1"), "--max-broken", "0.05"]
    for workers in ("0", "2"):
        assert main([*run, "--workers", workers]) == 1
        message = capsys.readouterr().err
        assert "train images cannot be read: red/" in message
        assert message.count("\n") == 1
        assert "Traceback" not in message


def test_empty_files_are_found_before_the_training(own_jpegs):
    for index in range(4):
        (own_jpegs / f"train/red/{index}.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"4 of 36 train images cannot be read: red/0.jpg, .* and 1 more; max_broken"
    ):
        opened(own_jpegs)


class Mislabelled:
    """A dataset as torchvision's, with a label that is no class."""

    classes, class_to_idx, root = ("a", "b"), {"a": 0, "b": 1}, None

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return Image.new("L", (8, 8)), index % 3


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_label_that_is_no_class_ends_the_run(tmp_path, capsys, monkeypatch, workers):
    monkeypatch.setattr("timm.data.create_dataset", lambda *_, **__: Mislabelled())
    run = command(Path("torch/mislabelled"), tmp_path, "--opt", "sgd", "--lr", "0.1", "--workers", workers)
    assert main(run) == 1
    message = capsys.readouterr().err
    assert message.startswith("learned-opt: train image number ")
    assert message.endswith("has label 2; expected 0 to 1\n")


def test_a_class_without_a_validation_image_is_named(own_jpegs, tmp_path, capsys):
    folder = own_jpegs / "train"
    assert opened(folder).note == ""
    for index in range(4, 12):
        (folder / f"red/{index}.jpg").unlink()
    assert main(command(folder, tmp_path / "run", "--opt", "sgd", "--lr", "0.1")) == 0
    shown = capsys.readouterr().out.replace("\n", " ")
    assert shown.count("1 class ('red') of fewer than 5 images without one to validate on") == 1


def test_images_of_other_modes_are_read_in_colour(own_jpegs):
    for name, mode in (("0", "L"), ("1", "RGBA"), ("2", "P"), ("3", "1")):
        image = io.BytesIO()
        Image.new(mode, (20, 20)).save(image, "PNG")
        (own_jpegs / f"train/red/{name}.jpg").write_bytes(image.getvalue())
    source = opened(own_jpegs).sources["train"]
    assert {source.read(index)[0].mode for index in range(len(source))} == {"RGB"}


def test_16_bit_grey_keeps_its_levels(own_jpegs, tmp_path):
    levels = [[0, 128 * 257], [5 * 257, 65535]]
    for index in range(12):
        path = own_jpegs / f"train/red/{index}.png"
        Image.fromarray(np.array(levels, dtype=np.uint16)).save(path)
        path.replace(path.with_suffix(".jpg"))
    for data in (opened(own_jpegs), opened("torch/folder", data_root=own_jpegs)):
        source = data.sources["train"]
        reds = [image for image, label in map(source.read, range(len(source))) if label == 2]
        assert {np.asarray(image)[..., 0].tobytes() for image in reds} == {bytes([0, 128, 5, 255])}


def test_what_fails_in_a_worker_is_one_line():
    def failing():
        yield 1
        raise OSError(
            "Caught OSError in DataLoader worker process 0.\nOriginal Traceback: ...\nOSError: no: image\n"
        )

    batches = readable(failing())
    assert next(batches) == 1
    with pytest.raises(ValueError, match=r"^no: image$"):
        next(batches)
