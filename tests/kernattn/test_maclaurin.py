import math

import pytest
import torch
from torch import Tensor

from kernattn import centre_and_scale, draw_maclaurin, maclaurin_features, maclaurin_kernel, signed_power
from kernattn.maclaurin import KERNELS

each = pytest.mark.parametrize("kernel", KERNELS)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair() -> tuple[Tensor, Tensor]:
    x = torch.tensor([0.4, -0.2, 0.1, 0.3], dtype=torch.float64)
    y = torch.tensor([0.1, 0.3, 0.4, -0.1], dtype=torch.float64)
    x, y = x + y, x
    return 0.5 * x / x.norm(), 0.5 * y / y.norm()


def estimates(kernel: str, *, features: int, seeds: int, seed: int, stratified: bool) -> Tensor:
    """Independent estimates of F(x . y), one a draw."""
    x, y = pair()
    source = generator(seed)
    drawn = []
    for _ in range(seeds):
        samples = draw_maclaurin(
            features, 4, kernel=kernel, stratified=stratified, generator=source, dtype=torch.float64
        )
        left, right = (maclaurin_features(z[None], samples) for z in (x, y))
        drawn.append((left * right).sum())
    return torch.stack(drawn)


@each
def test_coefficients_sum_to_the_function(kernel: str) -> None:
    chosen = maclaurin_kernel(kernel, 0.5)
    for x in (-0.5, -0.1, 0.0, 0.3, 0.5):
        series = sum(chosen.coefficient(n) * x**n for n in range(60))
        assert float(chosen.function(torch.tensor(x, dtype=torch.float64))) == pytest.approx(
            series, abs=1e-12
        )
    assert all(chosen.coefficient(n) >= 0 for n in range(60))


@each
@pytest.mark.parametrize("stratified", [False, True])
def test_features_are_unbiased(kernel: str, stratified: bool) -> None:
    x, y = pair()
    drawn = estimates(kernel, features=8, seeds=2000, seed=1, stratified=stratified)
    truth = maclaurin_kernel(kernel, 0.5).function(x @ y)
    assert abs(drawn.mean() - truth) < 4 * drawn.std() / math.sqrt(len(drawn))


def test_error_falls_as_the_root_of_the_features() -> None:
    x, y = pair()
    counts = [16, 64, 256, 1024]
    errors = [
        (estimates("exp", features=m, seeds=600, seed=m, stratified=False) - torch.exp(x @ y))
        .square()
        .mean()
        .sqrt()
        for m in counts
    ]
    logs = torch.tensor(counts, dtype=torch.float64).log()
    centred = logs - logs.mean()
    slope = (centred * torch.stack(errors).log()).sum() / centred.square().sum()
    assert -0.6 < slope < -0.4


def test_stratified_degrees_have_less_variance() -> None:
    plain, stratified = (
        estimates("exp", features=16, seeds=500, seed=2, stratified=flag).var() for flag in (False, True)
    )
    assert stratified < plain / 2


@each
def test_second_moment_is_within_its_bound(kernel: str) -> None:
    drawn = estimates(kernel, features=1, seeds=4000, seed=3, stratified=False)
    coefficient = maclaurin_kernel(kernel, 0.5).coefficient
    bound = sum(coefficient(n) ** 2 * 2 ** (n + 1) * 3**n * 0.5 ** (4 * n) for n in range(60))
    square = drawn.square()
    assert square.mean() < bound + 4 * square.std() / math.sqrt(len(drawn))


def test_degrees_and_signs() -> None:
    samples = draw_maclaurin(16, 5, shape=(3,), generator=generator(0))
    assert samples.counts[:3] == (8, 4, 2)
    assert sum(samples.counts) == 16
    assert samples.signs.shape == (3, sum(n * count for n, count in enumerate(samples.counts)), 5)
    assert torch.equal(samples.signs.abs(), torch.ones_like(samples.signs))
    again = draw_maclaurin(16, 5, shape=(3,), generator=generator(0))
    assert torch.equal(samples.signs, again.signs)
    features = maclaurin_features(torch.zeros(2, 3, 7, 5), samples)
    assert features.shape == (2, 3, 7, 16)
    assert (features[..., 8:] == 0).all()


def test_tokens_are_centred_and_of_one_length() -> None:
    x = torch.randn(3, 7, generator=generator(1), dtype=torch.float64)
    result = centre_and_scale(x, radius=0.5)
    torch.testing.assert_close(result.sum(dim=-1), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(
        result.norm(dim=-1), torch.full((3,), 0.5, dtype=torch.float64), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(centre_and_scale(3 * x + 2, radius=0.5), result, rtol=1e-5, atol=1e-5)
    flat = torch.full((2, 4), 3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(centre_and_scale(flat).sum(), flat)
    assert gradient.isfinite().all()
    assert (centre_and_scale(flat) == 0).all()


def test_power_keeps_the_sign() -> None:
    x = torch.tensor([-4.0, -1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    result = signed_power(x, 3.0, 0.5)
    expected = torch.tensor([-6.0, -3.0, 0.0, 3 * math.sqrt(2)], dtype=torch.float64)
    torch.testing.assert_close(result.detach(), expected, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.isfinite().all()
    assert torch.equal(signed_power(x, 1.0, 1.0), x)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="features must be at least 1 and width not negative, got 0 and 3"):
        draw_maclaurin(0, 3)
    with pytest.raises(ValueError, match=r"kernel must be one of exp, .*, got 'sine'"):
        draw_maclaurin(4, 3, kernel="sine")
    with pytest.raises(ValueError, match="radius must be positive and finite, got 0"):
        maclaurin_kernel("exp", 0)
    with pytest.raises(ValueError, match="the variance of its estimate is bounded only if 6 radius"):
        maclaurin_kernel("logarithm", 0.64)
    assert maclaurin_kernel("exp", 3.0).entire
    with pytest.raises(ValueError, match=r"x and signs disagree on E \(axis -1\): 4, 3"):
        maclaurin_features(torch.zeros(2, 4), draw_maclaurin(4, 3))
    with pytest.raises(ValueError, match=r"x must be real floating point, got torch.int64"):
        maclaurin_features(torch.zeros(2, 3, dtype=torch.int64), draw_maclaurin(4, 3))
