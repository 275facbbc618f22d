from dataclasses import asdict

import pytest
import timm

from meta_train.cli import main
from meta_train.commands.train import FREE, parse_command
from meta_train.training.optimizers import build_optimizer
from meta_train.training.recipes import RECIPES


@pytest.mark.parametrize("recipe", RECIPES)
def test_only_the_optimizer_differs(recipe):
    ours, theirs = (
        parse_command(["--recipe", recipe, "--data", "x", "--opt", opt]) for opt in ("flt", "adamw")
    )
    differing = {name for name, value in ours.options().items() if theirs.options()[name] != value}
    assert differing == {"opt"}
    model = timm.create_model(ours.model, depth=1)
    groups = [
        build_optimizer(run.opt, model, lr=run.lr, weight_decay=run.weight_decay).param_groups
        for run in (ours, theirs)
    ]
    for left, right in zip(*groups, strict=True):
        assert [id(param) for param in left["params"]] == [id(param) for param in right["params"]]
        assert all(left[name] == right[name] for name in ("lr", "weight_decay"))


def test_the_recipes_are_deits():
    small, base = (parse_command([f"--recipe={name}", "--data=x"]) for name in RECIPES)
    assert (small.model, base.model) == ("vit_small_patch16_224", "vit_base_patch16_224")
    for run in (small, base):
        assert (run.lr, run.weight_decay, run.drop_path, run.dropout) == (1e-3, 0.05, 0.1, 0.0)
        assert (run.fit.epochs, run.fit.batch_size, run.fit.ema) == (300, 1024, 0.99996)
        assert round(run.fit.warmup * 300) == 5
        augmentation = run.augmentation
        assert (augmentation.mixup, augmentation.cutmix, augmentation.label_smoothing) == (0.8, 1.0, 0.1)
        assert (augmentation.auto_augment, augmentation.random_erasing) == ("rand-m9-mstd0.5-inc1", 0.25)
        assert (augmentation.repeats, augmentation.interpolation) == (3, "bicubic")


def test_what_is_given_counts_more_than_the_recipe():
    run = parse_command(
        ["resnet10t", "--recipe", "vit-s16-300", "--data", "x", "--epochs", "3", "--mixup", "0.1"]
    )
    assert (run.model, run.fit.epochs, run.augmentation.mixup, run.augmentation.cutmix) == (
        "resnet10t",
        3,
        0.1,
        1.0,
    )


def test_a_recipe_needs_images_and_a_known_name(capsys):
    assert main(["train", "--recipe", "vit-s16-300"]) == 1
    assert "--data FOLDER" in capsys.readouterr().err
    assert main(["train", "--recipe", "vit-s16-30", "--data", "x"]) == 1
    assert "Did you mean 'vit-s16-300'?" in capsys.readouterr().err


def test_options_that_may_change_on_resume_exist():
    options = parse_command([]).options()
    assert set(FREE) <= options.keys()
    assert options.keys() >= asdict(parse_command([]).fit).keys()


def test_a_recipe_trains(jpegs, tmp_path):
    small = ["--image-size", "32", "--batch-size", "12", "--workers", "0", "--stop-after", "1"]
    run = ["vit_tiny_patch16_224", "--recipe", "vit-s16-300", "--data", str(jpegs), *small]
    assert main(["train", *run, "--out", str(tmp_path)]) == 0
