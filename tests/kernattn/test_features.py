import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kernattn import gaussian_projection, positive_features, trigonometric_features

FORMS: dict[str, dict[str, Any]] = {
    "independent": {"orthogonal": False},
    "orthogonal": {},
    "hyperbolic": {"orthogonal": False, "hyperbolic": True},
    "orthogonal-hyperbolic": {"hyperbolic": True},
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def estimates(x: Tensor, y: Tensor, *, features: int, seeds: int, seed: int, **form: Any) -> Tensor:
    """Independent estimates of exp(x . y), one a seed."""
    projection = gaussian_projection(
        features, len(x), shape=(seeds,), generator=generator(seed), dtype=torch.float64, **form
    )
    left, right = (positive_features(z[None], projection) for z in (x, y))
    return (left * right).sum(dim=(-2, -1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("features", [8, 20])
def test_features_are_unbiased(form: str, features: int) -> None:
    x = torch.full((8,), 0.75 / math.sqrt(2), dtype=torch.float64)
    y = x.roll(1) * torch.linspace(0.5, 1.0, 8, dtype=torch.float64)
    drawn = estimates(x, y, features=features, seeds=2000, seed=1, **FORMS[form])
    standard_error = drawn.std() / math.sqrt(len(drawn))
    assert abs(drawn.mean() - torch.exp(x @ y)) < 4 * standard_error


@pytest.mark.parametrize("form", FORMS)
def test_error_falls_as_the_root_of_the_features(form: str) -> None:
    x = torch.tensor([0.4, -0.2, 0.1, 0.3], dtype=torch.float64)
    y = torch.tensor([0.1, 0.3, 0.4, -0.1], dtype=torch.float64)
    assert (x + y).square().sum() <= 1
    counts = [16, 64, 256, 1024]
    errors = [
        (estimates(x, y, features=m, seeds=600, seed=m, **FORMS[form]) - torch.exp(x @ y))
        .square()
        .mean()
        .sqrt()
        for m in counts
    ]
    logs = torch.tensor(counts, dtype=torch.float64).log()
    centred = logs - logs.mean()
    slope = (centred * torch.stack(errors).log()).sum() / centred.square().sum()
    assert -0.6 < slope < -0.4


@pytest.mark.parametrize("orthogonal", [False, True])
def test_trigonometric_features_are_unbiased(orthogonal: bool) -> None:
    x = torch.tensor([0.7, -0.4, 0.2, 0.6], dtype=torch.float64)
    y = torch.tensor([0.5, 0.1, 0.4, -0.3], dtype=torch.float64)
    projection = gaussian_projection(
        8, 4, shape=(2000,), orthogonal=orthogonal, generator=generator(2), dtype=torch.float64
    )
    left, right = (trigonometric_features(z[None], projection) for z in (x, y))
    drawn = (left * right).sum(dim=(-2, -1))
    assert abs(drawn.mean() - torch.exp(x @ y)) < 4 * drawn.std() / math.sqrt(len(drawn))


def test_trigonometric_features_without_their_scale_are_of_unit_length() -> None:
    x = 30 * torch.randn(6, 4, generator=generator(0))
    projection = gaussian_projection(8, 4, generator=generator(1))
    scale = x.square().sum(dim=-1, keepdim=True) / 2
    features = trigonometric_features(x, projection, log_scale=scale)
    assert features.shape == (6, 16)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(6))
    assert trigonometric_features(x, projection).isfinite().all()


def test_an_offset_is_a_part_of_the_exponent() -> None:
    x, y = torch.randn(2, 6, 4, generator=generator(0), dtype=torch.float64)
    rows = gaussian_projection(16, 8, generator=generator(1), dtype=torch.float64)
    whole = positive_features(torch.cat([x, y], dim=-1), rows)
    offset = y @ rows[:, 4:].mT - y.square().sum(dim=-1, keepdim=True) / 2
    torch.testing.assert_close(positive_features(x, rows[:, :4], offset=offset), whole)
    rescaled = positive_features(x, rows[:, :4], offset=offset, rescale=True)
    torch.testing.assert_close(rescaled, whole / whole.amax(dim=-1, keepdim=True))


def test_variance_of_independent_features() -> None:
    x = torch.tensor([0.4, -0.2, 0.1, 0.3], dtype=torch.float64)
    drawn = estimates(x, x, features=16, seeds=20000, seed=3, orthogonal=False)
    expected = torch.expm1((2 * x).square().sum()) * torch.exp(2 * x @ x) / 16
    torch.testing.assert_close(drawn.var(), expected, rtol=0.1, atol=0)


def test_rows_are_orthogonal_in_blocks_and_gaussian_by_themselves() -> None:
    projection = gaussian_projection(7, 5, shape=(4000,), generator=generator(0), dtype=torch.float64)
    for block in (projection[:, :5], projection[:, 5:]):
        gram = block @ block.mT
        assert (gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-12
    power = projection.square().sum(dim=-1)
    samples = power.numel()
    assert abs(power.mean() - 5) < 4 * math.sqrt(2 * 5 / samples)
    assert abs(power.var() - 10) < 4 * math.sqrt((12 * 5 * 9) / samples)
    assert (projection.mean(dim=0).abs() < 4.5 / math.sqrt(4000)).all()


def test_hyperbolic_rows_are_pairs() -> None:
    projection = gaussian_projection(6, 4, hyperbolic=True, generator=generator(0))
    assert torch.equal(projection[:3], -projection[3:])


@pytest.mark.parametrize("features", [0, 1, 4, 9])
@pytest.mark.parametrize("width", [0, 1, 4])
@pytest.mark.parametrize("orthogonal", [False, True])
def test_shapes_and_seeds(features: int, width: int, orthogonal: bool) -> None:
    first, second = (
        gaussian_projection(features, width, shape=(2, 3), orthogonal=orthogonal, generator=generator(5))
        for _ in range(2)
    )
    assert first.shape == (2, 3, features, width)
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    assert positive_features(torch.zeros(2, 3, 7, width), first).shape == (2, 3, 7, features)


def test_rescaling_is_a_factor_a_token_and_keeps_long_queries_finite() -> None:
    x = torch.randn(6, 4, generator=generator(0), dtype=torch.float64)
    projection = gaussian_projection(16, 4, generator=generator(1), dtype=torch.float64)
    plain, rescaled = (positive_features(x, projection, rescale=flag) for flag in (False, True))
    torch.testing.assert_close(rescaled, plain / plain.amax(dim=-1, keepdim=True))
    long = (30 * x / x.norm(dim=-1, keepdim=True)).float()
    assert positive_features(long, projection).max() < 1e-38
    assert (positive_features(long, projection, rescale=True).amax(dim=-1) == 1).all()


def test_half_precision_gives_float32_features() -> None:
    x = torch.randn(3, 4, generator=generator(0)).bfloat16()
    projection = gaussian_projection(8, 4, generator=generator(1))
    features = positive_features(x, projection.bfloat16())
    assert features.dtype == torch.float32
    assert torch.equal(features, positive_features(x.float(), projection.bfloat16().float()))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="features must be even, got 7"):
        gaussian_projection(7, 4, hyperbolic=True)
    with pytest.raises(ValueError, match="must not be negative, got -1 and 4"):
        gaussian_projection(-1, 4)
    with pytest.raises(ValueError, match=r"x and projection disagree on E \(axis -1\): 3, 4"):
        positive_features(torch.zeros(2, 3), torch.zeros(8, 4))
    with pytest.raises(ValueError, match=r"x must be real floating point, got torch.complex64"):
        positive_features(torch.zeros(2, 4, dtype=torch.complex64), torch.zeros(8, 4))
