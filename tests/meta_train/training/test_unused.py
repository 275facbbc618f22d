"""Options that the data do not use are refused in one line."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from meta_train.cli import main
from meta_train.training.config import AugmentationConfig, DataConfig
from meta_train.training.data import Plan
from meta_train.training.opening import open_data
from meta_train.training.processes import World
from meta_train.training.recipes import RECIPES
from meta_train.training.unused import USED_BY, nearest_default
from tests.meta_train.training.runs import command

TIMMS = {
    ("--data-root", "/nowhere"): "data that timm opens by name",
    ("--download",): "data that timm downloads",
}
ARRAYS = [
    *(("--train-split", "nonsense"), ("--validation-split", "nonsense"), ("--classes", "37")),
    *(("--max-broken", "0.0"), ("--crop-scale", "0.9", "0.95"), ("--flip", "0.0"), ("--crop-share", "0.3")),
    *(("--interpolation", "bicubic"), ("--repeats", "3"), ("--color-jitter", "0.4")),
    ("--auto-augment", "rand-m9"),
]


def refusal(run: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(run) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize("option", [*TIMMS, *ARRAYS])
def test_images_in_memory_refuse(tmp_path, capsys, option):
    message = refusal(["train", *option, "--out", str(tmp_path)], capsys)
    assert f"digits, held in memory, does not use {' '.join(option)} (for " in message


@pytest.mark.parametrize("option", TIMMS)
def test_folders_refuse(jpegs, tmp_path, capsys, option):
    message = refusal(command(jpegs, tmp_path, *option), capsys)
    assert f"a folder or a tar, does not use {' '.join(option)} (for {TIMMS[option]})" in message


def test_streams_refuse_and_all_is_told_at_once(tmp_path, capsys):
    message = refusal(command(Path("wds/none"), tmp_path, "--max-broken", "0.5"), capsys)
    assert "wds/none, a stream, does not use --max-broken 0.5 (for image files" in message
    message = refusal(["train", "--download", "--classes", "3", "--out", str(tmp_path)], capsys)
    assert "--download (for data that timm downloads), --classes 3 (for image files)" in message


@pytest.mark.parametrize("name", ["wds/none", "WDS/none", "torch/imagenet", "torch/image_folder"])
def test_what_timm_does_not_download_refuses(tmp_path, capsys, name):
    message = refusal(command(Path(name), tmp_path, "--download"), capsys)
    assert f"{name}, " in message
    assert "does not use --download (for data that timm downloads)" in message


def test_every_option_tells_what_uses_it():
    names = {field.name for config in (DataConfig, AugmentationConfig) for field in fields(config)}
    assert set(USED_BY) <= names


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_recipe_crops_may_stand(recipe):
    augmentation = replace(RECIPES[recipe].augmentation, auto_augment=None)
    assert nearest_default(augmentation) == RECIPES[recipe].augmentation
    plan = Plan(
        size=8,
        batch_size=96,
        accumulate=1,
        augmentation=augmentation,
        seed=0,
        workers=0,
        world=World(torch.device("cpu")),
    )
    data = open_data(DataConfig())
    assert data.training(plan).steps == 1437 // 96
    with pytest.raises(ValueError, match=r"does not use --flip 0\.1 \(for image files\)"):
        data.training(replace(plan, augmentation=replace(augmentation, flip=0.1)))
    with pytest.raises(ValueError, match=r"does not use --auto-augment rand-m9"):
        data.training(replace(plan, augmentation=RECIPES[recipe].augmentation))
