import math
from dataclasses import replace

import pytest
import torch

from learned_opt.rule import UpdateRule
from meta_train.config import MetaTrainConfig
from meta_train.flat import flatten
from meta_train.population import Population, meta_loss
from tasks import get_task

CONFIG = MetaTrainConfig(
    families=("quadratic",),
    pairs=3,
    truncation=2,
    horizon=(2, 8),
    validation=("digits-conv",),
    compiled=False,
)


def population_and_theta(config=CONFIG):
    rule = UpdateRule(config.rule)
    like = rule.init_meta()
    return Population(config.families[0], config, rule, like), flatten(like)


def test_meta_loss_is_one_at_the_start_and_nought_at_nought():
    task = get_task("digits-mlp-32")
    losses = torch.tensor([0.0, math.log(10), float("nan"), 1e9])
    values = meta_loss(task, losses, compression=0.1)
    torch.testing.assert_close(values[:2], torch.tensor([0.0, 1.0]))
    assert torch.isfinite(values).all()
    assert values[2] == values[3] > 1


def test_episodes_last_whole_truncations_and_begin_from_nothing():
    population, theta = population_and_theta()
    ended = 0
    for _ in range(12):
        seeds = population.seeds.clone()
        population.meta_gradient(theta)
        begun = population.step == 0
        ended += int(begun.sum())
        assert (population.step % 2 == 0).all()
        assert (population.step < population.horizon).all()
        assert torch.equal(seeds != population.seeds, begun)
        assert (population.state["memory"][:, begun] == 0).all()
        assert (population.state["step"][:, ~begun, 0] == population.step[~begun]).all()
        for pair in torch.nonzero(begun).flatten():
            assert torch.equal(population.params["x"][0, pair], population.params["x"][1, pair])
    assert ended > 3


def test_a_new_episode_forgets_the_noise_of_the_last():
    population, theta = population_and_theta()
    for _ in range(12):
        fresh, before = population.step == 0, population.accumulated.clone()
        population.meta_gradient(theta)
        noise = population.accumulated - torch.where(fresh[:, None], 0.0, before)
        assert 0.5 * CONFIG.sigma < noise.std() < 2 * CONFIG.sigma


def test_a_member_that_blows_up_is_capped_and_leaves_the_others_alone():
    runs = []
    for broken in (False, True):
        population, theta = population_and_theta()
        if broken:
            population.params["x"][:, 1] = float("inf")
        gradient, loss = population.meta_gradient(theta)
        assert torch.isfinite(gradient).all()
        assert math.isfinite(loss)
        assert population.diverged == (2 if broken else 0)
        runs.append(population.params["x"][:, [0, 2]])
    assert torch.equal(*runs)


@pytest.mark.parametrize("family", ["digits-mlp-32", "teacher"])
def test_a_network_whose_loss_is_nan_is_capped_and_counted_and_leaves_the_others_alone(family):
    runs = []
    for broken in (False, True):
        population, theta = population_and_theta(replace(CONFIG, families=(family,), horizon=(8, 8)))
        if broken:
            next(iter(population.params.values()))[1, 1] = float("nan")
        gradient, loss = population.meta_gradient(theta)
        assert torch.isfinite(gradient).all()
        assert math.isfinite(loss)
        assert population.diverged == (1 if broken else 0)
        runs.append([value[:, [0, 2]] for value in population.params.values()])
    for sound, beside_broken in zip(*runs, strict=True):
        assert torch.equal(sound, beside_broken)


def test_state_continues_to_the_same_bits():
    first, theta = population_and_theta()
    first.meta_gradient(theta)
    second, _ = population_and_theta()
    saved = {
        key: value.clone() if isinstance(value, torch.Tensor) else dict(value)
        for key, value in first.state_dict().items()
    }
    second.load_state_dict(saved)
    for _ in range(5):
        gradients = [population.meta_gradient(theta)[0] for population in (first, second)]
        assert torch.equal(*gradients)
