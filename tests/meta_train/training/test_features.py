"""Every feature of a training run at least once, end to end."""

import json
from pathlib import Path

import pytest
import timm
import torch

from meta_train.cli import main
from meta_train.compiler import missing_for_compilation
from meta_train.training.augmentation import BatchAugmentation
from meta_train.training.config import AugmentationConfig
from meta_train.training.optimizers import build_optimizer
from meta_train.training.schedule import Schedule
from tests.meta_train.training.runs import command, outcome

SGD = ("--opt", "sgd", "--lr", "0.05", "--epochs", "1")


def weights(out: Path) -> torch.Tensor:
    """All but those of the head, whose gradient one way of clipping leaves alone."""
    model = torch.load(out / "checkpoint.pt", weights_only=True)["trainer"]["model"]
    return torch.cat([tensor.flatten() for name, tensor in model.items() if not name.startswith("head")])


@pytest.fixture(scope="module")
def plain(jpegs: Path, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Weights after a plain run."""
    out = tmp_path_factory.mktemp("plain")
    assert main(command(jpegs, out, *SGD)) == 0
    return weights(out)


@pytest.fixture(scope="module")
def first_step(jpegs: Path, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Weights after one step of it."""
    out = tmp_path_factory.mktemp("first")
    assert main(command(jpegs, out, *SGD, "--stop-after", "1")) == 0
    return weights(out)


def test_accumulated_passes_equal_one(jpegs, plain, tmp_path):
    assert main(command(jpegs, tmp_path, *SGD, "--accumulate", "3")) == 0
    assert (weights(tmp_path) - plain).abs().max() < 1e-5


def test_channels_last_changes_the_layout_alone(jpegs, plain, tmp_path):
    assert main(command(jpegs, tmp_path, *SGD, "--channels-last")) == 0
    assert (weights(tmp_path) - plain).abs().max() < 1e-5


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_lower_precision_stays_near(jpegs, plain, tmp_path, amp):
    assert main(command(jpegs, tmp_path, *SGD, "--amp", amp, "--clip-grad", "100")) == 0
    assert 0 < (weights(tmp_path) - plain).abs().max() < 0.02
    assert ("scaler" in outcome(tmp_path)["state"]) == (amp == "fp16")


@pytest.mark.slow
def test_a_compiled_model_trains_alike(jpegs, plain, tmp_path):
    if missing := missing_for_compilation():
        pytest.skip(f"needs {missing}")
    assert main(command(jpegs, tmp_path, *SGD, "--compiled")) == 0
    assert (weights(tmp_path) - plain).abs().max() < 1e-4


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_a_bound_on_the_gradient_holds(jpegs, plain, tmp_path, mode):
    start = tmp_path / "start"
    assert main(command(jpegs, start, *SGD[:2], "--epochs", "1", "--lr", "0", "--schedule", "constant")) == 0
    assert main(command(jpegs, tmp_path, *SGD, "--clip-grad", "1e-4", "--clip-mode", mode)) == 0
    moved = (weights(tmp_path) - weights(start)).norm()
    assert moved < 0.2 * (plain - weights(start)).norm()


def test_the_average_of_the_weights_lags_and_is_validated(jpegs, tmp_path):
    assert main(command(jpegs, tmp_path, *SGD, "--ema", "0.5")) == 0
    state = outcome(tmp_path)
    weight, averaged = (state["state"][name]["head.weight"] for name in ("model", "ema"))
    assert not torch.equal(weight, averaged)
    figures = state["lines"][0]
    assert figures["ema_loss"] != figures["validation_loss"]
    assert 0 <= figures["ema_accuracy"] <= figures["ema_top5"] <= 1


@pytest.mark.parametrize(
    "option",
    [
        ("--auto-augment", "rand-m9-mstd0.5-inc1"),
        ("--color-jitter", "0.4"),
        ("--random-erasing", "1.0"),
        ("--erasing-fill", "const", "--random-erasing", "1.0"),
        ("--mixup", "0.8"),
        ("--cutmix", "1.0", "--mix-mode", "elem"),
        ("--label-smoothing", "0.1"),
        ("--dropout", "0.2"),
        ("--drop-path", "0.5"),
        ("--repeats", "2"),
        ("--crop-scale", "0.5", "1.0"),
        ("--flip", "1.0"),
        ("--interpolation", "random"),
    ],
)
def test_a_regulariser_takes_part(jpegs, first_step, tmp_path, option):
    assert main(command(jpegs, tmp_path, *SGD, *option, "--stop-after", "1")) == 0
    assert 0 < (weights(tmp_path) - first_step).abs().max() < 1


def test_images_in_memory_are_mixed_and_erased_too(tmp_path):
    run = ["train", *SGD, "--batch-size", "700", "--mixup", "1.0", "--random-erasing", "0.5"]
    assert main([*run, "--out", str(tmp_path)]) == 0
    assert main([*run, "--auto-augment", "rand-m9", "--out", str(tmp_path)]) == 1


def test_mixing_needs_pairs(jpegs, tmp_path, capsys):
    assert main(command(jpegs, tmp_path, "--mixup", "1.0", "--accumulate", "4")) == 1
    assert "a pass takes 3 images, which are mixed in pairs" in capsys.readouterr().err
    assert main(["train", "--mixup", "1.0", "--batch-size", "2000", "--out", str(tmp_path)]) == 1
    assert "a pass takes 1437 images, which are mixed in pairs" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Using backward")
def test_an_optimizer_of_second_order_trains_a_transformer(tmp_path):
    run = ["train", "--opt", "adahessian", "--lr", "1e-3", "--batch-size", "16", "--stop-after", "1"]
    assert main([*run, "--out", str(tmp_path)]) == 0
    assert weights(tmp_path).isfinite().all()


def test_patches_have_a_size(tmp_path, capsys):
    assert main(["train", "--patch-size", "0", "--out", str(tmp_path)]) == 1
    assert "patch_size is 0; expected at least 1" in capsys.readouterr().err


def test_targets_of_mixed_images_sum_to_one():
    config = AugmentationConfig(mixup=1.0, cutmix=1.0, label_smoothing=0.1, random_erasing=0.5)
    augment = BatchAugmentation(config, classes=5, device=torch.device("cpu"))
    images, targets = augment(torch.randn(8, 3, 16, 16), torch.arange(8) % 5)
    assert images.shape == (8, 3, 16, 16)
    assert targets.sum(1).allclose(torch.ones(8))
    assert targets.min() >= 0.1 / 5 - 1e-6


@pytest.mark.parametrize("optimizer", ["adamw", "flt"])
def test_layer_decay_lowers_the_learning_rate_towards_the_input(optimizer):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
    groups = build_optimizer(optimizer, model, lr=1e-3, weight_decay=0.05, layer_decay=0.5).param_groups
    scales = {id(param): group["lr_scale"] for group in groups for param in group["params"]}
    ordered = [model.patch_embed.proj, model.blocks[0].mlp.fc1, model.blocks[1].mlp.fc1, model.head]
    assert [scales[id(layer.weight)] for layer in ordered] == [0.125, 0.25, 0.5, 1.0]


@pytest.mark.parametrize("optimizer", ["adamw", "flt"])
@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_every_optimizer_spares_the_same_parameters_from_weight_decay(optimizer, layer_decay):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    built = build_optimizer(optimizer, model, lr=1e-3, weight_decay=0.05, layer_decay=layer_decay)
    decays = {id(param): group["weight_decay"] for group in built.param_groups for param in group["params"]}
    decaying = {name for name, param in model.named_parameters() if decays[id(param)]}
    matrices = {name for name, param in model.named_parameters() if param.ndim > 1}
    assert decaying == matrices - {"pos_embed", "cls_token"}


def test_a_rule_that_goes_by_the_number_of_steps_is_told_it(jpegs, tmp_path):
    out = tmp_path / "run"
    assert main(command(jpegs, out, "--opt", "flt-rastrigin", "--epochs", "2")) == 0
    saved = outcome(out)["state"]["optimizer"]
    taken = {int(state["step"]) for state in saved["state"].values()}
    assert {group["total_steps"] for group in saved["param_groups"]} == taken == {6}


def test_an_optimizer_without_a_learning_rate_asks_for_one(jpegs, tmp_path, capsys):
    assert main(command(jpegs, tmp_path, "--opt", "adafactor")) == 1
    assert "give one as --lr" in capsys.readouterr().err


def test_a_schedule_rises_and_falls_between_its_bounds():
    schedule = Schedule(100, 9, True, start=0.1, floor=0.2)
    rates = [schedule.factor(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1 + 0.9 / 10)
    assert rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0.2 < rates[-1] < 0.202
    assert Schedule(10, 0, False).factor(9) == 1.0


def test_a_run_records_speed_and_where_it_goes(jpegs, tmp_path):
    assert main(command(jpegs, tmp_path, "--opt", "flt")) == 0
    steps = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [figures["step"] for figures in steps] == [1, 2, 3, 4, 5, 6]
    for figures in steps:
        assert figures["images_per_second"] == pytest.approx(12 / figures["step_seconds"], rel=0.01)
        assert 0 < figures["optimizer_share"] < 1
        assert 0 <= figures["waiting_share"] < 1
    assert list((tmp_path / "tensorboard").glob("events.*"))
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["options"]["opt"] == "flt"
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
