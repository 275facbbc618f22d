import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from learned_opt.files import locked
from meta_train.cli import main


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of each of two classes, red and blue."""
    folder = tmp_path_factory.mktemp("images")
    for name, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
        (folder / name).mkdir()
        for index in range(10):
            shade = tuple(channel + index for channel in colour)
            Image.new("RGB", (40, 30), shade).save(folder / name / f"{index}.png")
    return folder


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("optimizer", ["adamw", "saved", "flt"])
def test_train_on_digits(optimizer: str, saved: Path, tmp_path: Path) -> None:
    name = str(saved) if optimizer == "saved" else optimizer
    arguments = [
        "--opt",
        name,
        "--epochs",
        "2",
        "--lr",
        "3e-3",
        "--batch-size",
        "128",
        "--out",
        str(tmp_path),
    ]
    assert main(["train", *arguments]) == 0
    first, second = metrics(tmp_path)
    assert (first["epoch"], second["epoch"], second["step"]) == (1, 2, 2 * (1437 // 128))
    assert second["train_loss"] < first["train_loss"] < 3
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert set(state["trainer"]) == {"model", "optimizer", "progress"}
    assert (state["trainer"]["progress"]["epoch"], state["trainer"]["progress"]["step"]) == (
        2,
        second["step"],
    )


def test_progress_within_an_epoch_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("meta_train.commands.train_display.LINE_EVERY", -1.0)
    options = ["--opt", "sgd", "--lr", "0.1", "--epochs", "1", "--batch-size", "512", "--log-every", "1"]
    assert main(["train", *options, "--out", str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1/1  step ")]
    assert [line.split()[3] for line in lines] == ["1/2", "2/2"]


def test_the_rule_that_is_adam_trains_as_adamw_does(saved: Path, tmp_path: Path) -> None:
    curves = []
    for name in (str(saved), "adamw"):
        out = tmp_path / Path(name).name
        options = ["--opt", name, "--lr", "1e-3", "--weight-decay", "0.1", "--batch-size", "512"]
        assert main(["train", *options, "--epochs", "1", "--seed", "3", "--out", str(out)]) == 0
        curves.append(metrics(out)[0]["train_loss"])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.mark.parametrize(
    ("optimizer", "given", "constant", "recorded"),
    [
        ("flt-rastrigin", [], True, (0.0, "constant")),
        ("flt-rastrigin", ["--schedule", "cosine"], False, (0.0, "cosine")),
        ("flt-rastrigin", ["--warmup", "0.5"], False, (0.5, "constant")),
        ("sgd", [], False, (0.05, "cosine")),
    ],
)
def test_a_rule_with_a_schedule_of_its_own_gets_a_constant_rate(
    optimizer: str,
    given: list[str],
    constant: bool,
    recorded: tuple[float, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--opt", optimizer, "--lr", "0.5", "--epochs", "1", "--batch-size", "512", "--log-every", "1"]
    assert main(["train", *options, *given, "--out", str(tmp_path)]) == 0
    rates = [json.loads(line)["lr"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (rates == [0.5, 0.5]) is constant
    assert ("a schedule of its own: the learning rate is constant" in capsys.readouterr().out) is constant
    written = json.loads((tmp_path / "config.json").read_text())["options"]
    assert (written["warmup"], written["schedule"]) == recorded


def test_equal_seeds_give_equal_bits(tmp_path: Path) -> None:
    losses = []
    for run, seed in enumerate("001"):
        options = ["--opt", "sgd", "--lr", "0.1", "--batch-size", "512", "--epochs", "1", "--seed", seed]
        assert main(["train", *options, "--out", str(tmp_path / str(run))]) == 0
        losses.append(metrics(tmp_path / str(run))[0]["validation_loss"])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_train_on_a_folder_of_images(images: Path, tmp_path: Path, workers: str) -> None:
    options = ["--data", str(images), "--image-size", "32", "--batch-size", "8", "--workers", workers]
    arguments = ["--opt", "adamw", "--lr", "3e-3", "--epochs", "5", *options, "--out", str(tmp_path)]
    assert main(["train", *arguments]) == 0
    assert metrics(tmp_path)[-1]["step"] == 5 * 2
    assert metrics(tmp_path)[-1]["validation_accuracy"] == 1.0


def test_train_on_a_folder_with_splits(images: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(images)
    options = ["--data", str(tmp_path), "--image-size", "32", "--batch-size", "8", "--workers", "0"]
    assert main(["train", "--opt", "adamw", "--epochs", "1", *options, "--out", str(tmp_path / "run")]) == 0
    assert metrics(tmp_path / "run")[-1]["step"] == 2


def test_a_timm_model_of_any_size_takes_small_images(tmp_path: Path) -> None:
    options = ["--opt", "adamw", "--epochs", "1", "--batch-size", "1024", "--image-size", "32"]
    for model in ("resnet10t", "vit_tiny_patch16_224"):
        assert main(["train", model, *options, "--out", str(tmp_path / model)]) == 0
        assert len(metrics(tmp_path / model)) == 1


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--opt", "sgd", "--lr", "1e30", "--epochs", "3", "--out", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "try a lower learning rate" in message
    assert message.count("\n") == 1


def test_a_saved_optimizer_is_not_written_over(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(saved, tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["train", "--opt", str(folder), "--epochs", "1", "--out", str(folder)]) == 1
    assert "holds model.safetensors of a learned optimizer" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_of_two_runs_in_one_folder_the_second_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path):
        assert main(["train", "--opt", "sgd", "--epochs", "1", "--out", str(tmp_path)]) == 1
    assert f"another run is under way in {tmp_path}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
