"""What every augmentation promises, and how they compose."""

import pickle
from functools import partial
from itertools import combinations

import pytest
import torch
from torch.func import grad_and_value, vmap

from tasks import get_task
from tasks.augment import GradientNoise, LabelNoise, LossScale, Precision, compose, reparametrise
from tests.tasks.augment.chains import WRAPPERS, assert_same, generator, gradient_and_loss, population

ALL = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
NOT_COMMUTING = {
    ("batch size", "gradient noise"): "the batch that sizes the noise has another number of examples",
    ("label noise", "gradient noise"): "their draws take turns at one generator in another order",
    ("per parameter", "gradient noise"): "a tensor has one size of noise, its entries many units",
}
COMMUTING = [pair for pair in combinations(WRAPPERS, 2) if pair not in NOT_COMMUTING]


@pytest.fixture(scope="module")
def task():
    return get_task("teacher")


@ALL
@pytest.mark.parametrize("split", ["train", "validation"])
def test_batches_are_successive_batches(task, wrap, split):
    wrapped = wrap(task, 1)
    together, apart = generator(5), generator(5)
    stacked = wrapped.batches(together, 3, split)
    singles = [wrapped.batch(apart, split) for _ in range(3)]
    assert_same(stacked, (torch.stack(parts) for parts in zip(*singles, strict=True)))
    assert torch.equal(together.get_state(), apart.get_state())


@ALL
def test_seeds_repeat_and_pickling_keeps_them(task, wrap):
    wrapped = wrap(task, 2)
    for copy in (wrap(task, 2), pickle.loads(pickle.dumps(wrapped))):
        assert_same(wrapped.init(generator()).values(), copy.init(generator()).values())
        assert_same(wrapped.batch(generator(1)), copy.batch(generator(1)))
        assert copy.description == wrapped.description


@ALL
def test_a_population_of_different_amounts_equals_a_loop(wrap):
    members = [wrap(get_task("teacher", seed), seed) for seed in range(1, 4)]
    (gradients, losses), apart = population(members)
    for index, (gradient, loss) in enumerate(apart):
        torch.testing.assert_close(losses[index], loss, rtol=1e-5, atol=1e-6)
        for name, value in gradient.items():
            torch.testing.assert_close(gradients[name][index], value, rtol=1e-4, atol=1e-5)


@ALL
def test_evaluation_is_the_tasks_own(task, wrap):
    wrapped = wrap(task, 1)
    rng = generator()
    assert wrapped.evaluate(wrapped.init(rng)) == pytest.approx(
        task.evaluate(task.init(generator())), rel=1e-4
    )


@ALL
def test_validation_batches_have_the_shapes_of_training_batches(task, wrap):
    wrapped = wrap(task, 1)
    train, held_out = (wrapped.batch(generator(), split) for split in ("train", "validation"))
    assert [part.shape for part in train] == [part.shape for part in held_out]
    assert [part.dtype for part in train] == [part.dtype for part in held_out]


@ALL
def test_the_loss_at_the_start_is_normalised_to_about_one(task, wrap):
    wrapped = wrap(task, 1)
    loss = wrapped.loss(wrapped.init(generator()), wrapped.batch(generator(1)))
    assert 0.7 < wrapped.normalise(loss) < 1.3


@pytest.mark.parametrize(("first", "second"), COMMUTING, ids=map(" and ".join, COMMUTING))
def test_either_order_gives_the_same_loss_and_gradient(first, second):
    task = get_task("teacher")
    one, other = (WRAPPERS[name] for name in (first, second))
    results = []
    for wrapped in (other(one(task, 1), 2), one(other(task, 2), 1)):
        params, batch = wrapped.init(generator()), wrapped.batch(generator(1))
        results.append(gradient_and_loss(wrapped, params, batch))
    (gradient, loss), (swapped, value) = results
    torch.testing.assert_close(value, loss, rtol=1e-5, atol=1e-6, check_dtype=False)
    for name, slope in gradient.items():
        torch.testing.assert_close(swapped[name], slope, rtol=1e-3, atol=1e-4 * float(slope.abs().max()))


def test_a_chain_is_told_from_the_inside_out(task):
    chain = compose(task, partial(LabelNoise, share=0.25), partial(LossScale, scale=10.0))
    assert chain.description == f"{task.description}, label noise 0.25, loss times 10"
    assert chain.name == task.name
    assert chain.checksums == task.checksums
    assert compose(task) is task


def test_the_whole_chain_is_the_formula_of_its_parts(task):
    scaled = reparametrise(task, generator(3), per_parameter=3)
    chain = compose(
        task,
        partial(LabelNoise, share=0.3),
        partial(Precision, dtype=torch.float64),
        lambda inner: type(scaled)(inner, scaled.scales),
        partial(LossScale, scale=7.0),
        partial(GradientNoise, level=0.5),
    )
    params, batch = chain.init(generator()), chain.batch(generator(1))
    noise = chain.noise(batch)
    plain = {name: scaled.scales[name] * value for name, value in params.items()}
    slopes, loss = gradient_and_loss(task, plain, batch[:2])
    gradient, value = gradient_and_loss(chain, params, batch)
    torch.testing.assert_close(value, 7 * loss, rtol=1e-5, atol=1e-6, check_dtype=False)
    for name, slope in gradient.items():
        expected = 7 * scaled.scales[name] * slopes[name] + noise[name]
        torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_population_of_the_whole_chain_compiles_without_a_graph_break():
    members = []
    for seed in range(1, 3):
        task = get_task("teacher", seed)
        for wrap in WRAPPERS.values():
            task = wrap(task, seed)
        members.append(task)
    rng = generator()
    params = [member.init(rng) for member in members]
    stacked = {name: torch.stack([one[name] for one in params]) for name in params[0]}
    batches = [member.batch(rng) for member in members]
    batch = tuple(torch.stack(parts) for parts in zip(*batches, strict=True))
    eager = vmap(grad_and_value(members[0].loss))
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(stacked, batch), eager(stacked, batch))
