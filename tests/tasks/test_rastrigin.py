import math

import pytest
import torch

from tasks import Rastrigin, UnknownNameError, get_task, minima, ripple
from tasks import rastrigin as forms


def draw(form, dimension, seed=0):
    return forms.rastrigin(seed, dimension=dimension, form=form)


def test_open_l2o_form_is_the_published_formula():
    task = draw("open-l2o", 5)
    matrix, target, ripples, _ = task.batch(torch.Generator())
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))
    residual = torch.linalg.vector_norm(matrix @ x - target)
    expected = residual**2 / 2 - 10 * (ripples / 10) @ torch.cos(2 * math.pi * x) + 10 * 5
    torch.testing.assert_close(task.loss({"x": x}, task.batch(torch.Generator())), expected)


def test_standard_form_is_the_textbook_function_with_minimum_zero():
    task = draw("standard", 7)
    x = torch.linspace(-3, 3, 7)
    expected = 70 + (x**2 - 10 * torch.cos(2 * math.pi * x)).sum()
    torch.testing.assert_close(task.loss({"x": x}, task.batch(torch.Generator())), expected)
    assert task.evaluate({"x": torch.zeros(7)}) == {
        "loss": pytest.approx(0, abs=1e-9),
        "gap": pytest.approx(0, abs=1e-9),
    }
    assert task.minimum() == 0


def test_lois_form_is_the_identity_with_noise():
    task = draw("lois", 200)
    noise = task.instance.matrix / math.sqrt(2) - torch.eye(200)
    assert noise.std() == pytest.approx(forms.LOIS_NOISE, rel=0.02)
    assert torch.equal(task.instance.ripple, torch.full((200,), 10.0))


@pytest.mark.parametrize("form", ["lois", "standard"])
def test_starts_are_uniform_in_minus_three_to_three(form):
    x = draw(form, 500).init(torch.Generator().manual_seed(0))["x"]
    assert x.abs().max() <= 3
    assert x.std() == pytest.approx(math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("form", ["open-l2o", "lois", "standard"])
@pytest.mark.parametrize("dimension", [2, 10])
def test_typical_start_is_the_mean_over_instances_and_starts(form, dimension):
    losses = []
    for seed in range(2000):
        task = draw(form, dimension, seed)
        losses.append(
            task.loss(task.init(torch.Generator().manual_seed(seed)), task.batch(torch.Generator()))
        )
    losses = torch.stack(losses)
    error = losses.std() / math.sqrt(len(losses))
    assert abs(losses.mean() - task.typical_start) < 4 * error


def test_same_seed_gives_the_same_instance_whatever_else_was_drawn():
    first = get_task("rastrigin-10", 4)
    torch.randn(10)
    get_task("rastrigin-2", 1)
    for one, other in zip(first.instance, get_task("rastrigin", 4).instance, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.instance.matrix, get_task("rastrigin", 5).instance.matrix)


def test_oracle_finds_the_known_minimum_of_the_standard_form():
    for dimension in (1, 2, 5):
        assert ripple.oracle(draw("standard", dimension).instance, 16) == pytest.approx(0, abs=1e-8)


def test_oracle_beats_a_fine_grid_in_two_dimensions():
    axis = torch.linspace(-8, 8, 801, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    for seed in range(5):
        instance = draw("open-l2o", 2, seed).instance
        exact = ripple.in_double(instance)
        lowest = torch.func.vmap(lambda x, exact=exact: ripple.value(x, exact))(points).min()
        found = ripple.oracle(instance, 32)
        assert found <= lowest + 1e-9
        assert found > lowest - 0.5


def test_oracle_is_no_worse_than_plain_multistart_and_close_to_a_longer_search():
    instance = draw("open-l2o", 10).instance
    exact = ripple.in_double(instance)
    rng = torch.Generator().manual_seed(0)
    plain = min(
        ripple._polish(torch.randn(10, generator=rng, dtype=torch.float64), exact)[1] for _ in range(50)
    )
    found = ripple.oracle(instance, 32)
    assert found <= plain
    assert found == pytest.approx(ripple.oracle(instance, 64, seed=1), abs=0.5)


def test_oracle_is_kept_by_instance_and_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(minima, "_memory", {})
    task, other = draw("open-l2o", 3), draw("open-l2o", 3, seed=1)
    found = task.minimum(starts=4, cache=tmp_path)
    other.minimum(starts=4, cache=tmp_path)
    task.minimum(starts=4, seed=1, cache=tmp_path)
    task.minimum(starts=5, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(ripple, "_search", lambda *_: pytest.fail("searched again"))
    for memory in (minima._memory, {}):
        monkeypatch.setattr(minima, "_memory", memory)
        assert task.minimum(starts=4, cache=tmp_path) == found
    monkeypatch.undo()
    monkeypatch.setattr(minima, "_memory", {})
    monkeypatch.setattr(ripple, "VERSION", ripple.VERSION + 1)
    assert task.minimum(starts=4, cache=tmp_path) == found
    assert len(list(tmp_path.iterdir())) == 5, "what another version of the search found is not reused"


@torch.no_grad()
def test_the_gap_needs_no_gradients_to_be_on():
    task = draw("lois", 2, seed=11)
    assert task.evaluate(task.init(torch.Generator().manual_seed(0)))["gap"] >= -1e-9


def test_gap_is_never_negative_at_minima_that_gradient_descent_finds():
    task = draw("open-l2o", 4)
    start = task.init(torch.Generator().manual_seed(0))["x"].double()
    x, lowest = ripple._polish(start, ripple.in_double(task.instance))
    measured = task.evaluate({"x": x.float()})
    assert measured["loss"] == pytest.approx(lowest, rel=1e-5)
    assert measured["gap"] >= -1e-9


def test_bad_arguments():
    for dimension in (0, -3):
        with pytest.raises(ValueError, match=f"dimension must be at least 1, got {dimension}"):
            Rastrigin(torch.Generator(), dimension=dimension)
    with pytest.raises(UnknownNameError, match=r"'open-l20'\. Did you mean 'open-l2o'"):
        Rastrigin(torch.Generator(), dimension=2, form="open-l20")
    with pytest.raises(ValueError, match="starts must be at least 1, got 0"):
        ripple.oracle(draw("lois", 2).instance, 0)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
        draw("lois", 2, seed=1.5)
