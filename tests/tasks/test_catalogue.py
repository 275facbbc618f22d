"""What every task and every family promises, on each of them."""

import pickle

import pytest
import torch
from torch.func import grad_and_value, vmap

from tasks import (
    JUDGES,
    MissingDatasetError,
    UnknownNameError,
    family_names,
    get_family,
    get_task,
    require_trainable,
    task_names,
)
from tests.tasks.populations import assert_population_equals_loop

POPULATION = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def load(name, seed=0):
    try:
        return get_task(name, seed)
    except MissingDatasetError as error:
        pytest.skip(str(error))


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", task_names())
def test_task_contract(name):
    task = load(name)
    params = task.init(generator())
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in params.values())
    batch = task.batch(generator())
    loss = task.loss(params, batch)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert 0.2 < task.normalise(loss) <= 1.5
    assert "\n" not in task.description
    assert task.default_steps >= 1
    gradient, value = grad_and_value(task.loss)(params, batch)
    torch.testing.assert_close(value, loss)
    assert gradient.keys() == params.keys()
    assert any(part.abs().max() > 0 for part in gradient.values())


@pytest.mark.parametrize("name", task_names())
def test_same_seed_gives_the_same_bits_and_pickling_keeps_them(name):
    task = load(name, 3)
    copies = [load(name, 3), pickle.loads(pickle.dumps(task))]
    before = torch.get_rng_state()
    for copy in copies:
        assert_same(task.init(generator()).values(), copy.init(generator()).values())
        for split in ("train", "validation"):
            assert_same(task.batch(generator(), split), copy.batch(generator(), split))
    assert torch.equal(torch.get_rng_state(), before), "a task must leave torch's default generator alone"


@pytest.mark.parametrize("name", task_names())
@pytest.mark.parametrize("split", ["train", "validation"])
def test_batches_are_successive_batches(name, split):
    task = load(name)
    together, apart = generator(5), generator(5)
    stacked = task.batches(together, 4, split)
    singles = [task.batch(apart, split) for _ in range(4)]
    assert_same(stacked, tuple(torch.stack(parts) for parts in zip(*singles, strict=True)))
    assert torch.equal(together.get_state(), apart.get_state())
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        task.batches(generator(), 0, split)


@pytest.mark.parametrize("name", task_names())
def test_population_of_tasks_equals_a_loop(name):
    assert_population_equals_loop([load(name, seed) for seed in range(POPULATION)], rtol=1e-4)


@pytest.mark.parametrize("name", family_names())
def test_population_of_a_family_equals_a_loop(name):
    rng = generator()
    assert_population_equals_loop([get_family(name).sample(rng) for _ in range(POPULATION)], rtol=1e-4)


@pytest.mark.parametrize("name", family_names())
def test_family_samples_are_deterministic_and_differ(name):
    family = pickle.loads(pickle.dumps(get_family(name)))
    rng = generator()
    first, second = family.sample(rng), family.sample(rng)
    again = get_family(name).sample(generator())
    params = first.init(generator(1))
    assert_same(params.values(), again.init(generator(1)).values())
    assert_same(first.batch(generator(2)), again.batch(generator(2)))
    shapes = [part.shape for part in first.batch(generator(2))]
    assert shapes == [part.shape for part in second.batch(generator(2))]
    one = (*params.values(), *first.batch(generator(2)))
    other = (*second.init(generator(1)).values(), *second.batch(generator(2)))
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", family_names())
def test_normalise_is_bounded_and_finite_with_finite_gradients(name):
    task = get_family(name).sample(generator())
    awkward = [float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 1e-45, 0.0, 1.0]
    losses = torch.tensor(awkward, requires_grad=True)
    normalised = task.normalise(losses)
    assert torch.isfinite(normalised).all()
    torch.testing.assert_close(normalised[:4], torch.full((4,), 1.5))
    assert normalised.abs().max() <= 1.5 + 1e-6
    (gradient,) = torch.autograd.grad(normalised.sum(), losses)
    assert torch.isfinite(gradient).all()
    ascending = task.normalise(torch.logspace(-8, 8, 50))
    assert (ascending.diff() >= 0).all()


@pytest.mark.parametrize("name", family_names())
def test_normalised_loss_is_about_one_at_the_start(name):
    rng = generator()
    starts = []
    for _ in range(20):
        task = get_family(name).sample(rng)
        starts.append(task.normalise(task.loss(task.init(rng), task.batch(rng, "validation"))))
    assert 0.8 < torch.stack(starts).mean() < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-mlp-32", "quadratic-noisy", "rastrigin-lois"])
def test_population_compiles_without_a_graph_break(name):
    rng = generator()
    members = [get_family(name).sample(rng) for _ in range(2)]
    params = [member.init(rng) for member in members]
    stacked = {key: torch.stack([one[key] for one in params]) for key in params[0]}
    batch = tuple(torch.stack(parts) for parts in zip(*(m.batch(rng) for m in members), strict=True))
    eager = vmap(grad_and_value(members[0].loss))
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    expected, losses = eager(stacked, batch)
    gradients, values = compiled(stacked, batch)
    torch.testing.assert_close(values, losses)
    torch.testing.assert_close(gradients, expected)


def test_unknown_names_list_the_valid_ones_and_the_closest():
    with pytest.raises(
        UnknownNameError, match=r"'digits-vti'\. Did you mean 'digits-vit'.*rastrigin-lois-10"
    ):
        get_task("digits-vti")
    with pytest.raises(UnknownNameError, match="Did you mean 'teacher'"):
        get_family("techer")
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        get_task("rastrigin", -1)


def test_judges_are_never_trained_on():
    assert set(task_names()) >= JUDGES
    assert JUDGES.isdisjoint(family_names())
    for name in JUDGES:
        with pytest.raises(ValueError, match=f"'{name}' judges optimizers"):
            require_trainable(name)
    for name in family_names():
        require_trainable(name)
    with pytest.raises(UnknownNameError, match="Did you mean 'teacher'"):
        require_trainable("teachr")
