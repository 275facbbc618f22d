from math import log

import pytest
import torch

from learned_opt import Checkpoint, FLTConfig, RuleConfig, UpdateRule
from learned_opt.memory import MEMORIES
from meta_train.masks import mask_plot, time_scales


def untrained(config: RuleConfig) -> Checkpoint:
    return Checkpoint(config, UpdateRule(config).init_meta(), {})


@pytest.mark.parametrize("kind", MEMORIES)
def test_time_scales_start_at_adams(kind: str) -> None:
    checkpoint = untrained(RuleConfig(memory=MEMORIES[kind]()))
    scales = {scale.name: scale for scale in time_scales(checkpoint)}
    assert scales["average 1"].half_life == pytest.approx(log(0.5) / log(0.9), rel=1e-5)
    assert scales["squares"].half_life == pytest.approx(log(0.5) / log(0.999), rel=1e-5)
    assert all(scale.half_life == pytest.approx(scale.initial, rel=1e-5) for scale in scales.values())


def test_waves_tell_their_frequency() -> None:
    memory = FLTConfig(wave_betas=(0.9,), wave_frequencies=(0.125,))
    *_, wave = time_scales(untrained(RuleConfig(memory=memory)))
    assert wave.frequency == pytest.approx(0.125)


def test_a_half_life_halves_the_mask() -> None:
    checkpoint = untrained(RuleConfig())
    meta = {name: tensor.double() for name, tensor in checkpoint.meta.items()}
    for index, scale in enumerate(time_scales(checkpoint)[:3]):
        lags = torch.tensor([0.0, scale.half_life], dtype=torch.float64)
        start, later = UpdateRule(checkpoint.config).masks(meta, lags)[index].tolist()
        assert later == pytest.approx(start / 2, rel=1e-6)


def test_the_plot_draws_adam_and_every_average() -> None:
    figure = mask_plot(untrained(RuleConfig()), "title")
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert labels[0] == "Adam's momentum"
    assert sum(str(label).startswith("average ") for label in labels) == 3
    adam, first = (line.get_ydata() for line in figure.axes[0].get_lines()[:2])
    assert adam == pytest.approx(first, abs=1e-6)
