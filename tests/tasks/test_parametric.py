"""What every distribution over configurations promises."""

import pickle
from dataclasses import replace

import pytest
import torch

from tasks import (
    JUDGES,
    MissingDatasetError,
    Reparametrised,
    UnknownNameError,
    autoencoder,
    get_family,
    get_parametric,
    get_task,
    image_conv,
    parametric_names,
    recurrent,
    require_trainable,
    vit,
)
from tasks import image_mlp as perceptrons
from tasks.base import instance_generator
from tests.tasks.populations import assert_population_equals_loop

SEEDS = range(4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sampled(family, rng):
    try:
        return family.sample(rng)
    except MissingDatasetError as error:
        pytest.skip(str(error))


def about(task):
    """What a configuration is: its data and the shapes of its parameters."""
    while hasattr(task, "task"):
        task = task.task
    data = getattr(getattr(task, "data", None), "name", type(task).__name__)
    return data, {name: tuple(value.shape) for name, value in task.init(generator()).items()}


@pytest.mark.parametrize("name", parametric_names())
def test_a_configuration_is_a_family_of_one_shape(name):
    family = pickle.loads(pickle.dumps(get_parametric(name)))
    assert family.name == name
    assert "\n" not in family.description + family.sizes
    descriptions = set()
    for seed in SEEDS:
        drawn = family.sample_family(generator(seed))
        assert drawn.description == family.sample_family(generator(seed)).description
        descriptions.add(drawn.description)
    assert len(descriptions) > 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", parametric_names())
def test_a_population_of_a_configuration_equals_a_loop(name, seed):
    family = pickle.loads(pickle.dumps(get_family(f"{name}@{seed}")))
    assert family.name == f"{name}@{seed}"
    require_trainable(family.name)
    rng = generator()
    members = [sampled(family, rng) for _ in range(2)]
    again = sampled(get_family(f"{name}@{seed}"), generator())
    start = members[0].init(generator())
    assert all(torch.equal(value, start[key]) for key, value in again.init(generator()).items())
    assert_population_equals_loop(members)
    for member in members:
        loss = member.loss(member.init(generator()), member.batch(generator()))
        assert 0.2 < member.normalise(loss) <= 1.5


@pytest.mark.parametrize("name", parametric_names())
def test_no_configuration_is_a_judge(name):
    judges = []
    for judge in sorted(JUDGES):
        try:
            judges.append(about(get_task(judge)))
        except MissingDatasetError:
            continue
    for seed in range(10):
        try:
            task = get_parametric(name).sample(instance_generator(seed, name))
        except MissingDatasetError:
            continue
        assert about(task) not in judges


def test_a_judges_network_is_drawn_again(monkeypatch):
    other = perceptrons.MLPConfig("digits", (64, 20, 10), "relu", 64)
    judge = perceptrons.MLPConfig("digits-8", (64, 128, 128, 10), "tanh", 16, norm="layer")
    draws = iter([judge, replace(judge, dataset="teacher"), other])
    monkeypatch.setattr(perceptrons, "_draw", lambda _: next(draws))
    drawn = get_parametric("image_mlp").sample_family(generator())
    assert drawn.description == str(other)


@pytest.mark.parametrize("module", [image_conv, vit, autoencoder, recurrent])
def test_a_judges_images_are_drawn_again(module, monkeypatch):
    judges = [replace(judge, batch_size=16) for judge in module._JUDGES.values()]
    other = module._draw(generator())
    draws = iter([*judges, other])
    monkeypatch.setattr(module, "_draw", lambda _: next(draws))
    drawn = get_parametric(module.PARAMETRIC[0].name).sample_family(generator())
    assert drawn.description == str(other)
    assert next(draws, None) is None


def test_configurations_are_reparametrised():
    family = get_family("language@0")
    task = family.sample(generator())
    assert isinstance(task, Reparametrised)
    assert family.description.endswith("rescaled")


def test_teachers_differ_within_a_configuration():
    family = next(
        drawn
        for drawn in (get_family(f"image_mlp@{seed}") for seed in range(100))
        if drawn.description.startswith("teacher")
    )
    rng = generator()
    first, second = family.sample(rng), family.sample(rng)
    (inputs, labels, *_), (_, others, *_) = (task.batch(generator(1)) for task in (first, second))
    assert inputs.shape[1:].numel() == first.task.data._validation.shape[1]
    assert not torch.equal(labels, others)


def test_unknown_configurations():
    with pytest.raises(UnknownNameError, match="Did you mean 'image_mlp'"):
        get_family("image-mlp@3")
    for seed in ("", "-1", "x", "1.5"):
        with pytest.raises(ValueError, match=f"named FAMILY@SEED.*got 'image_mlp@{seed}'"):
            get_family(f"image_mlp@{seed}")
