import math
import warnings
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernattn import (
    FourierSamples,
    LocalTriangle,
    amplitude_error,
    gaussian_projection,
    positive_features,
    relative_log_mask,
    warn_of_amplitude,
)
from kernattn.rpe import phase


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("start", [0, 10**6, 10**9, 2**40, -(10**9)])
def test_phases_of_integers_are_exact_modulo_one(start: int) -> None:
    frequency = torch.randn(2, 5, 1, generator=generator(6), dtype=torch.float64)
    position = start + torch.arange(4)[:, None]
    turns = phase(frequency, position)
    assert turns.shape == (2, 4, 5)
    for head in range(2):
        for token in range(4):
            for sample in range(5):
                exact = Fraction(float(frequency[head, sample, 0])) * int(position[token, 0]) % 1
                error = abs(float(turns[head, token, sample]) - float(exact))
                assert min(error, 1 - error) < 5e-12


def test_phase_gradient_is_the_position_and_real_positions_work() -> None:
    frequency = torch.randn(1, 3, 2, generator=generator(7), dtype=torch.float64).requires_grad_()
    position = torch.tensor([[1_000_003, -70_000]])
    (gradient,) = torch.autograd.grad(phase(frequency, position).sum(), frequency)
    assert torch.equal(gradient, position.double()[None].expand(1, 3, 2))
    near = torch.tensor([[3, -2]])
    difference = phase(frequency, near) - phase(frequency, near.double())
    torch.testing.assert_close(difference, torch.zeros_like(difference), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_narrow_integers_have_the_same_phases(dtype: torch.dtype) -> None:
    for precision in (torch.float32, torch.float64):
        frequency = torch.randn(2, 5, 3, generator=generator(8), dtype=precision)
        position = torch.randint(-128, 128, (7, 3), generator=generator(9))
        narrow = phase(frequency, position.to(dtype))
        torch.testing.assert_close(narrow, phase(frequency, position), rtol=0, atol=1e-13)


@settings(max_examples=50, deadline=None)
@given(st.integers(-(2**62), 2**62), st.floats(-1, 1, width=32), st.floats(-1, 1, width=32))
def test_phases_of_single_precision_frequencies_are_exact(token: int, first: float, second: float) -> None:
    frequency = torch.tensor([[[first, second]]])
    exact = (Fraction(first) * token + Fraction(second) * (7 - token)) % 1
    turns = float(phase(frequency, torch.tensor([[token, 7 - token]])))
    assert abs(turns) <= 0.5
    error = abs(turns - float(exact)) % 1
    assert min(error, 1 - error) < 1e-12


def test_positions_may_differ_between_rows_of_the_batch() -> None:
    frequency = torch.randn(2, 5, 3, generator=generator(1), dtype=torch.float64)
    position = torch.randn(4, 6, 3, generator=generator(2), dtype=torch.float64)
    turns = phase(frequency, position)
    assert turns.shape == (4, 2, 6, 5)
    for row in range(4):
        assert torch.equal(turns[row], phase(frequency, position[row]))


def test_log_masks_of_all_pairs_have_the_heads_before_the_tokens() -> None:
    triangle = LocalTriangle(torch.tensor([1.0, -2.0]), torch.tensor([[2.0], [4.0]]))
    position, key_position = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[1.0], [2.0]])
    expected = torch.tensor([[[0.5, 0.0], [1.0, 0.5], [0.0, 0.0]], [[-1.5, -1.0], [-2.0, -1.5], [0.0, -0.5]]])
    assert torch.equal(relative_log_mask(triangle, position, key_position), expected)
    batch = relative_log_mask(triangle, torch.stack([position, position + 7]))
    assert batch.shape == (2, 2, 3, 3)
    assert torch.equal(batch[1], relative_log_mask(triangle, position))


def test_samples_estimate_with_the_phases_of_far_lags() -> None:
    frequency = torch.tensor([[[0.5], [0.25]]])
    samples = FourierSamples(frequency, torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.5]]))
    lag = torch.tensor([0, 1, 2, 3])[:, None]
    far = samples.log_mask(lag + 4 * 10**9)
    assert torch.equal(far, samples.log_mask(lag))
    torch.testing.assert_close(far, torch.tensor([[1.5, -0.75, -0.5, -0.25]]))
    assert samples.log_mask(lag[0]).shape == (1,)
    torch.testing.assert_close(samples.amplitude, torch.tensor([(1 + math.hypot(2, 0.5)) / 2]))


@pytest.mark.parametrize("amplitude", [0.1, 0.3])
def test_amplitude_law_is_the_deviation_of_positive_features(amplitude: float) -> None:
    """At lag 0 phi is psi, with a squared length of G."""
    features, draws, width = 64, 4000, 8
    x = torch.randn(width, generator=generator(3), dtype=torch.float64)
    x = x / x.norm() * math.sqrt(amplitude)
    projection = gaussian_projection(
        features, width, shape=(draws,), orthogonal=False, generator=generator(4), dtype=torch.float64
    )
    phi = positive_features(x.expand(draws, 1, width), projection)[:, 0]
    estimate = phi.square().sum(dim=-1) / math.exp(amplitude)
    expected = amplitude_error(torch.tensor(amplitude, dtype=torch.float64), features)
    torch.testing.assert_close(estimate.std(), expected, rtol=0.08, atol=0)


def test_loud_heads_are_warned_of() -> None:
    with pytest.warns(
        UserWarning, match=r"G = 1 of a head is above 0\.5: .* of 64 positive features is about 92%"
    ):
        warn_of_amplitude(torch.tensor([0.1, 1.0]), features=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_amplitude(torch.tensor([0.1, 0.5]), features=64)
        warn_of_amplitude(torch.zeros(0), features=64)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"frequency and position disagree on l"):
        phase(torch.zeros(1, 2, 1), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"position must be \[\.\.\., L, l\], got shape \[3\]"):
        phase(torch.zeros(1, 2, 1), torch.zeros(3))
    with pytest.raises(ValueError, match=r"frequency must be \[H, r, l\], got shape \[2, 1\]"):
        phase(torch.zeros(2, 1), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"position must be integer or floating point, got torch.bool"):
        phase(torch.zeros(1, 2, 1), torch.zeros(3, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be on one device, got frequency on cpu, position on meta"):
        phase(torch.zeros(1, 2, 1), torch.zeros(3, 1, device="meta"))
