import json
import re
from pathlib import Path

import pytest
from PIL import Image

from learned_opt import load_checkpoint
from meta_train.cli import main
from meta_train.log import read_log
from tasks import JUDGES, family_names, folder_family_names, parametric_names, task_names
from tasks.patch_source import PatchCounts, write_patches
from tests.meta_train.test_cli import fails
from tests.tasks.folders import write_folder

IMAGENET = [
    *("meta-train", "imagenet-vit", "--families", "folder-vit-32", "--pairs", "1", "--no-compiled"),
    *("--truncation", "1", "--horizon", "1", "2", "--validation", "digits-mlp-norm"),
    *("--validation-steps", "2", "--outer-steps", "2", "--workers", "1"),
]


def shows(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["tasks", *arguments]) == 0
    return capsys.readouterr().out


def test_list_names_everything_within_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    printed = shows(capsys)
    rows = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    for name in (*task_names(), *family_names(), *parametric_names(), *folder_family_names()):
        assert name in rows
    assert all(len(line) <= 100 for line in printed.splitlines())
    listed = [line for line in printed.splitlines() if " judge " in line]
    assert {line.split()[0] for line in listed} == JUDGES
    assert re.search(r"digits-mlp +26,122 +64 +1,000  judge", printed)


def test_list_marks_data_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASHION_MNIST_FOLDER", str(tmp_path))
    monkeypatch.setattr("tasks.datasets._LOADED", {})
    printed = shows(capsys)
    assert "not installed: apt-get install dataset-fashion-mnist" in " ".join(printed.split())
    assert "dataset-fashion-mnist" in fails(capsys, "tasks", "show", "fashion-mlp")


def test_functions_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dim", "2", "--steps", "4", "--out", str(tmp_path)]
    printed = shows(capsys, "show", "rastrigin", *options)
    assert "Adam and flt-rastrigin, 4 steps" in printed
    assert "each at the best of 7 learning rates from 0.001 to 1" in printed.replace("\n", " ")
    with (
        Image.open(tmp_path / "rastrigin-2.png") as picture,
        Image.open(tmp_path / "rastrigin-2.gif") as film,
    ):
        assert min(picture.size) > 600
        assert getattr(film, "n_frames", 1) == 5
    assert (tmp_path / "rastrigin-2.gif").stat().st_size < 2e6


@pytest.mark.parametrize("name", ["digits-conv", "image_mlp@4", "vit", "digits-autoencoder"])
def test_image_tasks_are_drawn(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = shows(capsys, "show", name, "--out", str(tmp_path))
    assert name in printed
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.png"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["text-transformer"], "Passages of 64 tokens, a character each"),
        (["quadratic"], "learned-opt tasks show quadratic --dim 2"),
        (["levy", "--dim", "5"], "Levy function: dimension 5"),
        (["rastrigin-lois"], "Rastrigin function: dimension 10, lois form"),
        (["teacher"], "random teacher network"),
        (["logistic@3"], "logistic regression"),
    ],
)
def test_others_are_described(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in shows(capsys, "show", *arguments, "--out", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["show"], 2, "Name what to show"),
        (["list", "digits-vit"], 2, "learned-opt tasks show digits-vit"),
        (["digits-vit"], 2, "list"),
        (["show", "digits-vt"], 1, "Did you mean 'digits-vit'?"),
        (["show", "digits-vit", "--dim", "2"], 1, "Unknown function 'digits-vit'"),
        (["show", "rastrigin-standard"], 1, "name one, for example --dim 2"),
        (["show", "ackley", "--dim", "1"], 1, "dimension must be at least 2, got 1"),
        (["show", "ackley", "--dim", "0"], 2, "dim is 0; expected at least 1"),
        (["show", "image_mlp@x"], 1, "FAMILY@SEED"),
        (["show", "folder-vit-32"], 1, "needs a folder of images"),
        (["show", "ackley-2", "--optimizer", "fltt"], 1, "did you mean 'flt'?"),
        (["show", "ackley-2", "--out", "/proc/no"], 1, "cannot write to /proc/no"),
    ],
)
def test_misuse_is_one_line(
    arguments: list[str], status: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in fails(capsys, "tasks", *arguments, status=status)


def test_help_names_the_preset_for_folders(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["meta-train", "--help"])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "imagenet-vit (Vision Transformers at 32 to 224 pixels on a folder of photographs" in printed


def test_imagenet_vit_meta_trains_on_real_photographs_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "photographs", tmp_path / "out"
    write_patches(folder, PatchCounts(train=12, validation=4))
    run = [*IMAGENET, "--data", str(folder), "--out", str(out)]
    assert main(run) == 0
    recorded = load_checkpoint(out).facts["meta_training"]
    assert recorded["data"] == str(folder)
    assert recorded["families"] == ["folder-vit-32"]
    assert json.loads((out / "config.json").read_text())["facts"]["outer_steps"] == 2
    assert [record["step"] for record in read_log(out)] == [1, 2]
    assert all(0 < record["meta_loss/folder-vit-32"] < 1.5 for record in read_log(out))
    assert main([*run, "--resume"]) == 0
    assert "data was" in fails(capsys, *IMAGENET, "--data", "elsewhere", "--out", str(out), "--resume")


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["imagenet-vit"], 2, "imagenet-vit needs images: --data FOLDER"),
        (["tiny", "--data", "photographs"], 2, "no family reads a folder"),
        (["imagenet-vit", "--data", "x", "--families", "folder-vit-33"], 2, "Did you mean 'folder-vit-32'?"),
    ],
)
def test_folders_are_asked_for_where_they_are_read(
    arguments: list[str], status: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in fails(capsys, "meta-train", *arguments, status=status)


@pytest.mark.parametrize("what", ["nothing", "file", "empty class"])
def test_folders_that_cannot_be_used_are_one_line(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photographs"
    if what == "file":
        folder.write_text("")
    elif what == "empty class":
        write_folder(folder)
        (folder / "yellow").mkdir()
    reason = {"nothing": "is not there", "file": "is a file", "empty class": "has no images"}[what]
    message = fails(capsys, *IMAGENET, "--data", str(folder), "--out", str(tmp_path / "out"))
    assert reason in message
