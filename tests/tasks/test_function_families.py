"""What every configuration of the families of functions promises."""

import pickle

import pytest
import torch
from torch.func import grad_and_value, vmap

from tasks import landscapes, logistic, quadratic, rastrigin
from tasks.base import instance_generator

FAMILIES = [family for module in (landscapes, logistic, quadratic, rastrigin) for family in module.PARAMETRIC]
SEEDS = range(6)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(
    params=[(family, seed) for family in FAMILIES for seed in SEEDS], ids=lambda p: f"{p[0].name}@{p[1]}"
)
def configuration(request):
    family, seed = request.param
    return pickle.loads(pickle.dumps(family)).sample_family(instance_generator(seed, family.name))


def test_a_population_of_a_configuration_equals_a_loop(configuration):
    rng = generator()
    members = [configuration.sample(rng) for _ in range(3)]
    params = [member.init(rng) for member in members]
    batches = [member.batch(rng) for member in members]
    stacked = {name: torch.stack([one[name] for one in params]) for name in params[0]}
    stacked_batch = tuple(torch.stack(parts) for parts in zip(*batches, strict=True))
    gradients, losses = vmap(grad_and_value(members[0].loss))(stacked, stacked_batch)
    for index, member in enumerate(members):
        gradient, loss = grad_and_value(member.loss)(params[index], batches[index])
        torch.testing.assert_close(losses[index], loss, rtol=1e-4, atol=1e-4)
        for name, expected in gradient.items():
            largest = float(expected.abs().max())
            torch.testing.assert_close(
                gradients[name][index], expected, rtol=1e-3, atol=1e-5 * largest + 1e-6
            )


def test_a_configuration_starts_at_about_one_and_is_bounded(configuration):
    rng = generator()
    task = configuration.sample(rng)
    starts = torch.stack([task.loss(task.init(rng), task.batch(rng, "validation")) for _ in range(20)])
    assert 0.5 < float(task.normalise(starts).mean()) < 1.3
    awkward = torch.tensor([float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 0.0], requires_grad=True)
    normalised = task.normalise(awkward)
    torch.testing.assert_close(normalised[:4], torch.full((4,), 1.5))
    assert normalised.abs().max() <= 1.5 + 1e-6
    (slope,) = torch.autograd.grad(normalised.sum(), awkward)
    assert torch.isfinite(slope).all()


def test_batches_of_a_configuration_are_successive_batches(configuration):
    task = configuration.sample(generator())
    together, apart = generator(5), generator(5)
    stacked = task.batches(together, 3)
    singles = [task.batch(apart) for _ in range(3)]
    for parts, part in zip(stacked, zip(*singles, strict=True), strict=True):
        assert torch.equal(parts, torch.stack(part))
    assert torch.equal(together.get_state(), apart.get_state())


def test_a_configuration_and_its_description_follow_from_the_seed():
    for family in FAMILIES:
        drawn = [family.sample_family(instance_generator(seed, family.name)).description for seed in SEEDS]
        again = [family.sample_family(instance_generator(seed, family.name)).description for seed in SEEDS]
        assert drawn == again
        assert len(set(drawn)) >= len(SEEDS) - 1
        assert not any("\n" in description for description in drawn)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_configuration_compiles_without_a_graph_break(family):
    rng = generator()
    task = family.sample_family(instance_generator(2, family.name)).sample(rng)
    params, batch = task.init(rng), task.batch(rng)
    stacked = {name: torch.stack([value, value + 0.01]) for name, value in params.items()}
    batches = tuple(torch.stack([part, part]) for part in batch)
    eager = vmap(grad_and_value(task.loss))
    gradients, losses = torch.compile(eager, fullgraph=True, backend="aot_eager")(stacked, batches)
    torch.testing.assert_close((gradients, losses), eager(stacked, batches))
