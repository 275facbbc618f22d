import pytest
import torch
from torch.func import grad

from tasks import Quadratic


def make(seed=0, **options):
    return Quadratic(torch.Generator().manual_seed(seed), **options)


def test_spectrum_is_as_stated_and_rotations_differ():
    task = make(condition_number=1e4)
    hessian = task.root.double().T @ task.root.double()
    eigenvalues = torch.linalg.eigvalsh(hessian)
    assert eigenvalues.mean() == pytest.approx(1, rel=1e-5)
    assert eigenvalues[-1] / eigenvalues[0] == pytest.approx(1e4, rel=1e-3)
    steps = eigenvalues.log().diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(task.root, make(seed=1, condition_number=1e4).root)


@pytest.mark.parametrize("condition_number", [1.0, 10.0, 1e4])
def test_every_start_has_half_the_dimension_as_its_loss(condition_number):
    task = make(condition_number=condition_number)
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        params = task.init(rng)
        assert task.evaluate(params)["loss"] == pytest.approx(10, rel=1e-4)
        assert task.normalise(task.loss(params, task.batch(rng))) == pytest.approx(1, abs=1e-4)


def test_noise_adds_to_the_gradient_and_averages_to_nothing():
    task = make(noise=0.7)
    params = task.init(torch.Generator().manual_seed(0))
    root, noise = task.batches(torch.Generator().manual_seed(1), 2000)
    exact = grad(task.loss)(params, (root[0], torch.zeros(20)))["x"]
    noisy = grad(task.loss)(params, (root[0], noise[0]))["x"]
    torch.testing.assert_close(noisy - exact, noise[0], rtol=1e-4, atol=1e-5)
    assert noise.std() == pytest.approx(0.7, rel=0.02)
    assert noise.mean(0).abs().max() < 5 * 0.7 / 2000**0.5
    assert not task.batch(torch.Generator(), "validation")[1].any()


def test_normalise_counts_orders_of_magnitude_without_noise():
    task = make()
    losses = 10 * torch.tensor([1e3, 1.0, 1e-3, 1e-6, 1e-9, 0.0])
    torch.testing.assert_close(
        task.normalise(losses), torch.tensor([1.5, 1.0, 0.5, 0.0, 0.0, 0.0]), atol=1e-5, rtol=0
    )


def test_normalise_keeps_the_average_with_noise():
    losses = torch.tensor([-5.0, 0.0, 10.0, 30.0])
    torch.testing.assert_close(make(noise=1.0).normalise(losses), torch.tensor([-0.5, 0.0, 1.0, 1.5]))


def test_without_a_rotation_the_axes_are_the_coordinates():
    task = make(rotated=False, condition_number=100.0, dimension=5)
    curvature = task.root.T @ task.root
    assert torch.equal(curvature, curvature.diagonal().diag())
    assert float(curvature[0, 0] / curvature[4, 4]) == pytest.approx(100, rel=1e-5)
    assert task.description == "quadratic: dimension 5, condition 100, noise 0, not rotated"


def test_the_gap_is_the_value_without_noise():
    task = make(noise=1.0)
    measured = task.evaluate({"x": torch.ones(20)})
    assert measured["gap"] == measured["loss"] > 0
    assert task.evaluate({"x": torch.zeros(20)})["gap"] == 0


def test_a_thousand_dimensions_share_their_matrix_between_batches():
    task = make(dimension=1000, noise=1.0)
    root, noise = task.batches(torch.Generator(), 32)
    assert root.shape == (32, 1000, 1000)
    assert root.untyped_storage().nbytes() == 4 * 1000 * 1000
    assert noise.shape == (32, 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 0}, "dimension must be at least 1, got 0"),
        ({"condition_number": 0.5}, "condition_number must be finite and at least 1, got 0.5"),
        ({"condition_number": float("nan")}, "condition_number must be finite and at least 1, got nan"),
        ({"noise": -1.0}, "noise must be finite and at least 0, got -1.0"),
        ({"noise": float("inf")}, "noise must be finite and at least 0, got inf"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
