import math

import pytest
import torch
from torch.func import grad

from tasks import Reparametrised, get_family, get_task, reparametrise

TASKS = ["digits-mlp-32", "rastrigin-2", "quadratic"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TASKS)
def test_the_function_is_the_same_in_other_coordinates(name):
    task = get_task(name)
    wrapped = reparametrise(task, generator(3))
    params, stored = task.init(generator()), wrapped.init(generator())
    batch, extended = task.batch(generator(1)), wrapped.batch(generator(1))
    torch.testing.assert_close(wrapped.loss(stored, extended), task.loss(params, batch), rtol=1e-4, atol=1e-5)
    assert wrapped.evaluate(stored) == pytest.approx(task.evaluate(params), rel=1e-4)
    slopes = grad(task.loss)(params, batch)
    for key, slope in grad(wrapped.loss)(stored, extended).items():
        torch.testing.assert_close(slope, slopes[key] * wrapped.scales[key], rtol=1e-3, atol=1e-4)


def test_wrapping_twice_composes():
    task = get_task("digits-mlp-32")
    once = reparametrise(task, generator(1))
    twice = reparametrise(once, generator(2))
    together = Reparametrised(task, {key: once.scales[key] * twice.scales[key] for key in once.scales})
    stored, batch = twice.init(generator()), twice.batch(generator(1))
    flat = together.init(generator())
    torch.testing.assert_close(stored, flat, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(twice.loss(stored, batch), together.loss(flat, together.batch(generator(1))))
    assert twice.learning_rates == pytest.approx(together.learning_rates)


def test_batches_repeat_the_scales():
    wrapped = reparametrise(get_task("quadratic-noisy"), generator())
    together = wrapped.batches(generator(1), 3)
    singles = [wrapped.batch(rng) for rng in [generator(1)] for _ in range(3)]
    for stacked, parts in zip(together, zip(*singles, strict=True), strict=True):
        assert torch.equal(stacked, torch.stack(parts))


def test_scales_span_their_ranges():
    task = get_task("digits-mlp-tanh")
    rng = generator()
    draws = [reparametrise(task, rng, per_tensor=10, overall=1) for _ in range(100)]
    scales = torch.stack([scale for draw in draws for scale in draw.scales.values()]).log10()
    assert scales.abs().max() <= 1 + 1e-6
    assert scales.std() == pytest.approx(1 / math.sqrt(3), rel=0.1)
    common = [reparametrise(task, rng, per_tensor=1, overall=100) for _ in range(100)]
    assert all(len(set(map(float, draw.scales.values()))) == 1 for draw in common)
    assert max(float(draw.scales["1.weight"]) for draw in common) > 30


def test_learning_rates_move_with_the_geometric_mean():
    task = get_task("digits-mlp-32")
    scales = {name: torch.tensor(10.0 ** (index - 2)) for index, name in enumerate(task.init(generator()))}
    low, high = Reparametrised(task, scales).learning_rates
    assert (low, high) == pytest.approx([rate / 10**-0.5 for rate in task.learning_rates])


def test_bad_scales():
    task = get_task("rastrigin-2")
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale of 'x' must be positive and finite"):
            Reparametrised(task, {"x": torch.tensor(scale)})
    with pytest.raises(ValueError, match=r"scales must name the parameters \['x'\], got \['y'\]"):
        Reparametrised(task, {"y": torch.tensor(1.0)}).init(generator())
    with pytest.raises(ValueError, match=r"per_tensor must be finite and at least 1, got 0\.5"):
        reparametrise(task, generator(), per_tensor=0.5)


def test_each_parameter_has_a_scale_of_its_own():
    task = get_task("teacher")
    wrapped = reparametrise(task, generator(3), per_tensor=1, overall=1, per_parameter=100)
    params, batch = wrapped.init(generator()), wrapped.batch(generator(1))
    original = task.init(generator())
    exponents = torch.cat([scale.flatten() for scale in wrapped.scales.values()]).log10()
    assert exponents.abs().max() <= 2 + 1e-6
    assert exponents.std() == pytest.approx(2 / math.sqrt(3), rel=0.05)
    assert abs(exponents.mean()) < 4 * 2 / math.sqrt(3 * len(exponents))
    slopes = grad(task.loss)(original, batch[:2])
    for name, slope in grad(wrapped.loss)(params, batch).items():
        torch.testing.assert_close(params[name] * wrapped.scales[name], original[name])
        torch.testing.assert_close(slope, slopes[name] * wrapped.scales[name], rtol=1e-3, atol=1e-5)


def test_families_draw_the_scales_they_always_drew():
    """Published results and resumable runs depend on these bits."""
    scales = get_family("digits-mlp-32").sample(generator(2)).scales
    drawn = {name: float(scale).hex() for name, scale in scales.items()}
    assert drawn["1.weight"] == "0x1.11a5cc0000000p+0"
    assert drawn["1.bias"] == "0x1.1e3fb20000000p+4"
