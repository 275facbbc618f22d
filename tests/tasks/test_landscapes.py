import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.func import grad, grad_and_value, jacrev, vmap

from tasks import UnknownNameError
from tasks.landscapes import _SHAPES, PARAMETRIC, Landscape, ackley, levy, rosenbrock
from tests.tasks.sizes import LargestResult

FUNCTIONS = sorted(_SHAPES)
points = arrays.arrays(np.float64, st.integers(2, 12), elements=st.floats(-10, 10))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(function, seed=0, **options):
    return Landscape(generator(seed), function, **{"dimension": 6, **options})


@settings(max_examples=50, deadline=None)
@given(points)
def test_rosenbrock_is_the_textbook_formula(z):
    expected = sum(100 * (z[i + 1] - z[i] ** 2) ** 2 + (1 - z[i]) ** 2 for i in range(len(z) - 1))
    assert float(rosenbrock(torch.from_numpy(z))) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(points)
def test_ackley_is_the_textbook_formula(z):
    expected = (
        -20 * np.exp(-0.2 * np.sqrt(np.mean(z**2))) - np.exp(np.mean(np.cos(2 * np.pi * z))) + 20 + np.e
    )
    assert float(ackley(torch.from_numpy(z))) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(points)
def test_levy_is_the_textbook_formula(z):
    w = 1 + (z - 1) / 4
    expected = np.sin(np.pi * w[0]) ** 2 + (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2)
    for i in range(len(z) - 1):
        expected += (w[i] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[i] + 1) ** 2)
    assert float(levy(torch.from_numpy(z))) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
def test_the_minimiser_is_one(function, shifted, rotated):
    task = make(function, shifted=shifted, rotated=rotated)
    best = task.minimiser
    gradient, value = grad_and_value(task.loss)({"x": best}, task.batch(generator()))
    assert abs(float(value)) < 1e-12
    assert gradient["x"].abs().max() < 1e-5
    assert task.evaluate({"x": best})["gap"] == pytest.approx(0, abs=1e-12)
    textbook = torch.full((6,), 0.0 if function == "ackley" else 1.0)
    assert torch.equal(best, textbook) is not shifted
    rng = generator(1)
    for distance in (1e-2, 0.1, 1.0, 10.0):
        for _ in range(20):
            there = best + distance * torch.randn(6, generator=rng)
            assert task.evaluate({"x": there})["loss"] > 0


@pytest.mark.parametrize("function", ["levy", "rosenbrock"])
def test_the_bowl_around_the_minimiser_is_convex(function):
    task = make(function, shifted=True, rotated=True)
    batch = tuple(part.double() for part in task.batch(generator()))
    curvature = jacrev(grad(lambda x: task.loss({"x": x}, batch)))(task.minimiser.double())
    assert torch.linalg.eigvalsh(curvature).min() > 1e-3


def test_ackley_has_finite_gradients_at_its_kink_and_next_to_it():
    for z in (torch.zeros(4), torch.full((4,), 1e-30), torch.full((4,), 1e-20), torch.full((4,), -1e-8)):
        assert torch.isfinite(grad(ackley)(z)).all()
    assert not grad(ackley)(torch.zeros(4)).any()
    together = vmap(grad(ackley))(torch.stack([torch.zeros(4), torch.ones(4)]))
    assert torch.isfinite(together).all()
    slope = grad(ackley)(torch.tensor([1e-4, 0.0], dtype=torch.float64))[0]
    assert slope == pytest.approx(4 / 2**0.5, rel=1e-2)


def test_ackley_is_exact_next_to_its_minimum_in_single_precision():
    z = torch.full((8,), 1e-7)
    assert float(ackley(z)) == pytest.approx(float(ackley(z.double())), rel=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_rotation_and_a_shift_change_coordinates_only(function):
    task = make(function, shifted=True, rotated=True)
    centre, axes = (part.double() for part in task.batch(generator()))
    torch.testing.assert_close(axes @ axes.T, torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0)
    shape = _SHAPES[function]
    z = torch.randn(6, generator=generator(1), dtype=torch.float64)
    x = centre + axes.T @ (z - shape.minimiser)
    torch.testing.assert_close(task.loss({"x": x}, (centre, axes)), shape.value(z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("options", [{}, {"shifted": True}, {"shifted": True, "rotated": True}])
def test_starts_are_in_the_box_and_normalise_to_one(function, options):
    rng = generator()
    starts = []
    for seed in range(100):
        task = make(function, seed, **options)
        x = task.init(rng)
        assert x["x"].abs().max() <= _SHAPES[function].width
        starts.append(task.normalise(task.loss(x, task.batch(rng))))
    assert torch.stack(starts).mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_instance_depends_on_its_generator_alone(function):
    options = {"shifted": True, "rotated": True}
    first, again, other = (
        make(function, 1, **options),
        make(function, 1, **options),
        make(function, 2, **options),
    )
    for mine, same, different in zip(first.frame, again.frame, other.frame, strict=True):
        assert torch.equal(mine, same)
        assert not torch.equal(mine, different)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_thousand_dimensions_are_cheap(function):
    task = make(function, dimension=1000, shifted=True, rotated=True)
    params, batch = task.init(generator()), task.batch(generator())
    with LargestResult() as largest:
        gradient = grad(task.loss)(params, batch)["x"]
    assert torch.isfinite(gradient).all()
    assert 1000 <= largest.elements <= 2000, "matrices meet vectors alone"


@pytest.mark.parametrize("family", PARAMETRIC, ids=lambda family: family.name)
def test_configurations_differ_in_dimension_shift_and_rotation(family):
    rng = generator()
    parts, dimensions = set(), set()
    for _ in range(30):
        task = family.sample_family(rng).sampler.keywords
        dimensions.add(task["dimension"])
        parts.add((task["shifted"], task["rotated"]))
    assert len(parts) == 4
    assert min(dimensions) >= 2
    assert max(dimensions) <= 1000
    assert len(dimensions) > 10


def test_bad_arguments():
    with pytest.raises(ValueError, match="dimension must be at least 2, got 1"):
        make("levy", dimension=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'ackley'"):
        make("akley")
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        make("levy").batches(generator(), 0)
