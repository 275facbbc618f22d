from typing import Any

import pytest
import torch

from kernattn import ShiftInvariantKernel

NAMES = ("gaussian", "laplace", "matern12", "matern32", "matern52")


def kernel(name: Any, dimension: int = 1) -> ShiftInvariantKernel:
    scale = torch.linspace(0.8, 1.3, dimension, dtype=torch.float64)[None]
    return ShiftInvariantKernel(name, torch.tensor([0.7], dtype=torch.float64), scale)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_their_weight_at_lag_0_and_fall_from_there(name: str) -> None:
    lag = torch.linspace(0, 30, 200, dtype=torch.float64)[:, None].expand(-1, 2)
    values = kernel(name, 2).log_mask(lag)[0]
    assert values[0] == 0.7
    assert (values.diff() < 0).all() or name == "gaussian"
    assert values[-1] < 1e-6


def test_laplace_and_the_first_matern_differ_beyond_one_dimension() -> None:
    line, plane = torch.tensor([[1.0], [-2.0]]), torch.tensor([[1.0, 0.0], [1.0, -2.0]])
    first, second = (kernel(name).log_mask(line) for name in ("laplace", "matern12"))
    torch.testing.assert_close(first, second)
    first, second = (kernel(name, 2).log_mask(plane) for name in ("laplace", "matern12"))
    torch.testing.assert_close(first[:, 0], second[:, 0])
    assert first[0, 1] < second[0, 1]


def test_smoother_kernels_are_nearer_to_the_gaussian() -> None:
    lag = torch.linspace(0.1, 1, 10, dtype=torch.float64)[:, None]
    gaussian = kernel("gaussian").log_mask(lag)
    distances = [
        (kernel(name).log_mask(lag) - gaussian).abs().max() for name in ("matern12", "matern32", "matern52")
    ]
    assert distances[0] > distances[1] > distances[2]


@pytest.mark.parametrize("name", NAMES)
def test_length_scales_have_finite_gradients_at_lag_0(name: Any) -> None:
    scale = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    exact = ShiftInvariantKernel(name, torch.ones(1, dtype=torch.float64), scale)
    exact.log_mask(torch.zeros(3, 2)).sum().backward()
    assert scale.grad is not None
    assert (scale.grad == 0).all()


def test_orthogonal_frequencies_are_orthogonal_in_blocks() -> None:
    frequency = (
        kernel("matern32", 4).sample(8, orthogonal=True).frequency[0] * kernel("matern32", 4).lengthscale
    )
    for block in frequency.split(4):
        gram = block @ block.mT
        torch.testing.assert_close(gram, gram.diagonal().diag(), rtol=0, atol=1e-12 * float(gram.max()))


def test_bad_input_is_named() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"kernel must be one of gaussian, .*, got 'box'"):
        ShiftInvariantKernel("box", one, one[:, None])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weight must be \[H\], got shape \[1, 1\]"):
        ShiftInvariantKernel("gaussian", one[:, None], one[:, None])
    with pytest.raises(ValueError, match=r"lengthscale must be \[H, l\] with H = 1 and l >= 1, got \[1\]"):
        ShiftInvariantKernel("gaussian", one, one)
    with pytest.raises(ValueError, match=r"lengthscale must be positive, got \[\[-1.0\]\]"):
        ShiftInvariantKernel("gaussian", one, -one[:, None]).sample(3)
    with pytest.raises(ValueError, match=r"no orthogonal samples: the Laplace kernel's density"):
        kernel("laplace", 3).sample(3, orthogonal=True)
    with pytest.raises(ValueError, match=r"weight must be real floating point, got torch.int64"):
        ShiftInvariantKernel("gaussian", one.long(), one.long()[:, None])
