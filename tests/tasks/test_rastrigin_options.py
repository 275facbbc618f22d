"""Amplitude, conditioning, rotation and shift of Rastrigin functions, and the parametric family."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, grad_and_value, vmap

from tasks import JUDGES, Rastrigin, get_family, get_task
from tasks.rastrigin import (
    JUDGING,
    NEAR_AMPLITUDES,
    ORACLE_DIMENSION,
    PARAMETRIC,
    UNSCALED_FAMILIES,
    rastrigin,
)
from tasks.ripple import Instance, in_double, value
from tests.tasks.sizes import LargestResult

FORMS = ["open-l2o", "lois", "standard"]
OPTIONS = {
    "plain": {},
    "amplitude": {"amplitude": 3.3},
    "conditioned": {"condition_number": 100.0},
    "rotated": {"rotated": True},
    "shifted": {"shifted": True},
    "all": {"amplitude": 3.3, "condition_number": 100.0, "rotated": True, "shifted": True},
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def by_hand(x, batch):
    """The function in numpy, float64."""
    matrix, target, ripple, offset, *frame = (part.numpy().astype(np.float64) for part in batch)
    if frame:
        x = x - frame[0]
    if len(frame) == 2:
        x = frame[1] @ x
    bowl = 0.5 * np.sum((matrix @ x - target) ** 2)
    return bowl - np.sum(ripple * np.cos(2 * np.pi * x)) + offset


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    dimension=st.integers(1, 12),
    seed=st.integers(0, 1000),
    amplitude=st.floats(0.1, 30),
    condition_number=st.none() | st.floats(1, 1e4),
    rotated=st.booleans(),
    shifted=st.booleans(),
)
def test_every_configuration_is_the_formula(form, dimension, seed, **options):
    task = rastrigin(seed, dimension=dimension, form=form, **options)
    x = task.init(generator(seed))["x"].double()
    batch = task.batch(generator())
    exact = task.loss({"x": x}, tuple(part.double() for part in batch))
    assert float(exact) == pytest.approx(by_hand(x.numpy(), batch), rel=1e-9)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_standard_form_has_its_minimum_at_the_centre(options):
    task = rastrigin(3, dimension=9, form="standard", **options)
    centre = task.frame[0] if task.frame else torch.zeros(9)
    assert task.minimum() == pytest.approx(0, abs=1e-4)
    gradient, loss = grad_and_value(task.loss)({"x": centre}, task.batch(generator()))
    assert float(loss) == pytest.approx(0, abs=1e-4)
    assert gradient["x"].abs().max() < 1e-5
    assert task.evaluate({"x": centre})["gap"] == pytest.approx(0, abs=1e-9)
    rng = generator(1)
    for distance in (1e-2, 0.1, 1.0, 3.0):
        for _ in range(20):
            away = centre + distance * torch.randn(9, generator=rng)
            assert task.evaluate({"x": away})["gap"] > 0


def test_a_frame_moves_the_minimum_and_keeps_its_value():
    plain = rastrigin(1, dimension=3, form="lois")
    framed = rastrigin(1, dimension=3, form="lois", rotated=True, shifted=True)
    assert all(torch.equal(one, other) for one, other in zip(plain.instance, framed.instance, strict=True))
    assert framed.minimum(starts=8) == plain.minimum(starts=8)
    centre, axes = (part.double() for part in framed.frame)
    z = torch.randn(3, generator=generator(), dtype=torch.float64)
    there = {"x": centre + axes.T @ z}
    loss = framed.loss(there, tuple(part.double() for part in framed.batch(generator())))
    torch.testing.assert_close(loss, value(z, in_double(plain.instance)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("condition_number", [1.0, 50.0, 1e4])
def test_the_bowl_has_the_condition_number_asked_and_keeps_its_size(form, condition_number):
    plain = rastrigin(0, dimension=20, form=form).instance.matrix.double()
    matrix = rastrigin(0, dimension=20, form=form, condition_number=condition_number).instance.matrix.double()
    eigenvalues = torch.linalg.eigvalsh(matrix.T @ matrix)
    assert float(eigenvalues[-1] / eigenvalues[0]) == pytest.approx(condition_number, rel=1e-2)
    assert float(matrix.norm()) == pytest.approx(float(plain.norm()), rel=1e-5)
    steps = eigenvalues.log().diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_amplitude_is_the_height_of_the_ripple(form):
    low, high = (rastrigin(0, dimension=5, form=form, amplitude=alpha).instance for alpha in (1.0, 20.0))
    torch.testing.assert_close(high.ripple, 20 * low.ripple)
    assert float(high.offset) == 20 * float(low.offset) == 100
    assert torch.equal(high.matrix, low.matrix)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_typical_starts_are_the_mean_over_instances_and_starts(form, options):
    ratios = []
    for seed in range(400):
        task = rastrigin(seed, dimension=8, form=form, **options)
        loss = task.loss(task.init(generator(seed)), task.batch(generator()))
        ratios.append(loss / task.typical_start)
    ratios = torch.stack(ratios)
    assert abs(float(ratios.mean()) - 1) < 4 * float(ratios.std()) / math.sqrt(len(ratios))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_population_equals_a_loop(form, options):
    members = [rastrigin(seed, dimension=4, form=form, **options) for seed in range(5)]
    starts = [member.init(generator(seed)) for seed, member in enumerate(members)]
    batches = [member.batch(generator()) for member in members]
    together = vmap(grad_and_value(members[0].loss))(
        {"x": torch.stack([start["x"] for start in starts])},
        tuple(torch.stack(parts) for parts in zip(*batches, strict=True)),
    )
    for index, member in enumerate(members):
        gradient, loss = grad_and_value(member.loss)(starts[index], batches[index])
        torch.testing.assert_close(together[0]["x"][index], gradient["x"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together[1][index], loss)


def test_options_that_are_off_leave_published_instances_as_they_are():
    plain = Rastrigin(generator(), dimension=6)
    off = Rastrigin(
        generator(), dimension=6, amplitude=10.0, condition_number=None, rotated=False, shifted=False
    )
    assert len(plain.batch(generator())) == 4
    for one, other in zip(plain.batch(generator()), off.batch(generator()), strict=True):
        assert torch.equal(one, other)
    rng = generator()
    assert torch.equal(plain.instance.matrix, torch.randn(6, 6, generator=rng))
    assert torch.equal(plain.instance.target, torch.randn(6, generator=rng))
    assert torch.equal(plain.instance.ripple, 10 * torch.randn(6, generator=rng))


@pytest.mark.parametrize("form", FORMS)
def test_a_thousand_dimensions_are_cheap(form):
    task = rastrigin(0, dimension=1000, form=form, condition_number=10.0, rotated=True, shifted=True)
    params, batch = task.init(generator()), task.batch(generator())
    with LargestResult() as largest:
        gradient = grad(task.loss)(params, batch)["x"]
    assert torch.isfinite(gradient).all()
    assert 1000 <= largest.elements <= 2000, "matrices meet vectors alone"
    assert ("gap" in task.evaluate(params)) is (form == "standard")


def test_the_gap_is_reported_up_to_the_oracles_limit(monkeypatch):
    monkeypatch.setattr("tasks.rastrigin.oracle", lambda *_, **__: -5.0)
    for dimension, known in ((ORACLE_DIMENSION, True), (ORACLE_DIMENSION + 1, False)):
        task = rastrigin(0, dimension=dimension)
        measured = task.evaluate(task.init(generator()))
        assert ("gap" in measured) is known
        if known:
            assert measured["gap"] == measured["loss"] + 5


def drawn(count):
    rng = generator()
    (family,) = PARAMETRIC
    return [family.sample_family(rng) for _ in range(count)]


def test_configurations_cover_every_form_and_option():
    options = [family.sampler.keywords for family in drawn(300)]
    assert {one["form"] for one in options} == set(FORMS)
    assert {one["rotated"] for one in options} == {one["shifted"] for one in options} == {False, True}
    assert {one["condition_number"] is None for one in options} == {False, True}
    dimensions = [one["dimension"] for one in options]
    assert min(dimensions) == 2
    assert 900 < max(dimensions) <= 1000


def test_no_configuration_is_a_judge():
    judges = [get_task(name) for name in JUDGES if name.startswith("rastrigin")]
    assert {(judge.form, judge.dimension) for judge in judges} == JUDGING
    options = [family.sampler.keywords for family in drawn(3000)]
    assert JUDGING.isdisjoint({(one["form"], one["dimension"]) for one in options})
    assert ("standard", 2) in {(one["form"], one["dimension"]) for one in options}


def test_a_seed_names_a_configuration_and_an_instance():
    first, again = (get_family("rastrigin@3").sample(generator(5)) for _ in range(2))
    for one, other in zip(first.batch(generator()), again.batch(generator()), strict=True):
        assert torch.equal(one, other)
    other = get_family("rastrigin@3").sample(generator(6))
    assert other.description == first.description
    assert len({get_family(f"rastrigin@{seed}").sample(generator()).description for seed in range(5)}) == 5


def test_descriptions_name_what_differs_from_the_published_form():
    assert rastrigin(dimension=3).description == "Rastrigin function: dimension 3, open-l2o form"
    assert rastrigin(dimension=3, **OPTIONS["all"]).description.endswith(
        "open-l2o form, amplitude 3.3, condition 100, rotated, shifted"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amplitude": 0.0}, "amplitude must be positive and finite, got 0.0"),
        ({"amplitude": math.inf}, "amplitude must be positive and finite, got inf"),
        ({"condition_number": 0.9}, "condition_number must be finite and at least 1, got 0.9"),
        ({"condition_number": math.nan}, "condition_number must be finite and at least 1, got nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        rastrigin(dimension=2, **options)


def test_an_instance_is_what_a_batch_begins_with():
    task = rastrigin(dimension=3, rotated=True)
    batch = task.batch(generator())
    assert len(batch) == len(Instance._fields) + 2
    assert not batch[4].any(), "without a shift the centre is the origin"


@pytest.mark.parametrize("family", UNSCALED_FAMILIES, ids=lambda family: family.name)
def test_training_families_keep_off_the_published_dimensions(family):
    tasks = [family.sample(generator(seed)) for seed in range(4)]
    assert {task.dimension for task in tasks}.isdisjoint({2, 10, 100})
    assert len({task.amplitude for task in tasks}) == 4
    low, high = NEAR_AMPLITUDES
    assert all(low <= task.amplitude <= high for task in tasks)
    assert all(task.shifted == (task.form == "standard") for task in tasks)
    assert type(get_family(family.name).sample(generator())) is Rastrigin
