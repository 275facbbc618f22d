import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kernattn import FourierSamples, GaussianMixture

WEIGHT = torch.tensor([0.6, -0.4, 0.3], dtype=torch.float64)
MEAN = torch.tensor([[0.0], [0.3], [-0.2]], dtype=torch.float64)
SCALE = torch.tensor([0.2, 0.1, 0.25], dtype=torch.float64)
PHASE = torch.tensor([0.0, -math.pi / 2, 1.0], dtype=torch.float64)
LAGS = torch.tensor([[0.0], [0.5], [-0.5], [1.7], [-3.0]], dtype=torch.float64)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(
    *, heads: int = 1, dimension: int = 1, phases: bool = True, positive: bool = False
) -> GaussianMixture:
    """The same mixture for every head, so that heads are independent draws."""
    weight = WEIGHT.abs() if positive else WEIGHT
    mean = torch.cat([MEAN * (axis + 1) for axis in range(dimension)], dim=-1)
    return GaussianMixture(
        weight.expand(heads, 3),
        mean.expand(heads, 3, dimension),
        SCALE.expand(heads, 3),
        PHASE.expand(heads, 3) if phases else None,
    )


def lags(dimension: int) -> Tensor:
    return torch.cat([LAGS * (-0.5) ** axis for axis in range(dimension)], dim=-1)


def grid(dimension: int) -> tuple[Tensor, float]:
    axis = torch.linspace(-3, 3, 601, dtype=torch.float64)
    points = torch.cartesian_prod(*[axis] * dimension).reshape(-1, dimension)
    return points, float(axis[1] - axis[0]) ** dimension


@pytest.mark.parametrize("dimension", [1, 2])
def test_position_function_is_the_integral_of_the_spectrum(dimension: int) -> None:
    points, cell = grid(dimension)
    exact = mixture(dimension=dimension)
    real, imag = exact.spectrum(points[None])
    angle = 2 * math.pi * lags(dimension) @ points.mT
    integral = (real[0] * angle.cos() - imag[0] * angle.sin()).sum(dim=-1) * cell
    torch.testing.assert_close(exact.log_mask(lags(dimension))[0], integral, rtol=0, atol=1e-10)


SAMPLING: dict[str, tuple[int, dict[str, Any]]] = {
    "mixture": (1, {}),
    "mixture-plane": (2, {}),
    "mixture-stratified": (1, {"stratified": True}),
    "mixture-orthogonal": (3, {"orthogonal": True}),
    "fixed": (1, {"proposal_scale": 0.4}),
    "fixed-plane": (2, {"proposal_scale": 0.5}),
    "fixed-orthogonal": (2, {"proposal_scale": 0.5, "orthogonal": True}),
    "fixed-stratified": (1, {"proposal_scale": 0.4, "stratified": True}),
}


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("phases", [False, True])
def test_estimate_is_unbiased_with_signs_and_odd_parts(name: str, phases: bool) -> None:
    dimension, options = SAMPLING[name]
    exact = mixture(heads=2000, dimension=dimension, phases=phases)
    drawn = exact.sample(16, generator=generator(1), **options).log_mask(lags(dimension))
    truth = exact.log_mask(lags(dimension))[0]
    standard_error = drawn.std(dim=0) / math.sqrt(2000)
    assert ((drawn.mean(dim=0) - truth).abs() < 4 * standard_error).all()


@pytest.mark.parametrize("options", [{}, {"proposal_scale": 0.4}])
def test_variance_is_that_of_the_theory(options: dict[str, Any]) -> None:
    heads, count = 40000, 4
    exact = mixture(heads=heads, phases=False)
    drawn = exact.sample(count, generator=generator(2), **options).log_mask(LAGS)
    points, cell = grid(1)
    spectrum = mixture(phases=False).spectrum(points[None])[0][0]
    offset = points - MEAN[:, 0]
    if options:
        density = torch.exp(-points[:, 0].square() / 0.32) / (0.4 * math.sqrt(2 * math.pi))
    else:
        mass = WEIGHT.abs() * SCALE
        density = (mass / mass.sum() * torch.exp(-offset.square() / (2 * SCALE.square())) / SCALE).sum(dim=-1)
        density = density / math.sqrt(2 * math.pi)
    even = 1 + torch.cos(4 * math.pi * LAGS * points[:, 0])
    second = (spectrum.square() / density * even).sum(dim=-1) * cell / 2
    expected = (second - exact.log_mask(LAGS)[0].square()) / count
    torch.testing.assert_close(drawn.var(dim=0), expected, rtol=0.06, atol=0)


def test_error_falls_as_the_root_of_the_samples() -> None:
    exact = mixture(heads=1000)
    truth = exact.log_mask(LAGS[3:4])
    counts = [16, 64, 256, 1024]
    errors = [
        (exact.sample(r, generator=generator(r)).log_mask(LAGS[3:4]) - truth).square().mean().sqrt()
        for r in counts
    ]
    logs = torch.tensor(counts, dtype=torch.float64).log()
    centred = logs - logs.mean()
    slope = (centred * torch.stack(errors).log()).sum() / centred.square().sum()
    assert -0.6 < slope < -0.4


@pytest.mark.parametrize("stratified", [False, True])
def test_ratio_is_the_norm_of_the_spectrum_if_nothing_is_negative(stratified: bool) -> None:
    exact = mixture(phases=False, positive=True)
    samples = exact.sample(50, generator=generator(3), stratified=stratified)
    norm = (WEIGHT.abs() * SCALE * math.sqrt(2 * math.pi)).sum()
    torch.testing.assert_close(samples.ratio_real, norm.expand(1, 50))
    assert (samples.ratio_imag == 0).all()


def test_negative_weights_have_negative_ratios_and_odd_parts_imaginary_ones() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    negative = GaussianMixture(-one, one[..., None], 0.1 * one).sample(8, generator=generator(0))
    assert (negative.ratio_real < 0).all()
    odd = GaussianMixture(one, 0 * one[..., None], 0.1 * one, -math.pi / 2 * one)
    assert odd.sample(8, generator=generator(0)).ratio_real.abs().max() < 1e-15
    assert (odd.sample(8, generator=generator(0)).ratio_imag < 0).all()
    shifted = GaussianMixture(one, 0.2 * one[..., None], 0.1 * one, -math.pi / 2 * one)
    torch.testing.assert_close(shifted.log_mask(LAGS), -shifted.log_mask(-LAGS))
    assert shifted.log_mask(LAGS)[0, 1] > 0.05


def test_stratified_samples_vary_far_less() -> None:
    exact = mixture(heads=500)
    plain, stratified = (
        exact.sample(32, generator=generator(4), stratified=flag).log_mask(LAGS[:4]).var(dim=0)
        for flag in (False, True)
    )
    assert (stratified < plain / 5).all()


def test_orthogonal_samples_vary_less() -> None:
    """Of one Gaussian in many dimensions, at a lag as long as its width."""
    heads, dimension = 2000, 8
    one = torch.ones(heads, 1, dtype=torch.float64)
    exact = GaussianMixture(one, torch.zeros(heads, 1, dimension, dtype=torch.float64), 0.2 * one)
    lag = torch.full((1, dimension), 0.35, dtype=torch.float64)
    plain, orthogonal = (
        exact.sample(16, generator=generator(9), orthogonal=flag).log_mask(lag).var()
        for flag in (False, True)
    )
    assert orthogonal < 0.8 * plain


def test_amplitude_is_that_of_samples_and_a_bound_if_components_cancel() -> None:
    exact = mixture(heads=2, positive=True, phases=False)
    torch.testing.assert_close(exact.sample(6, generator=generator(0)).amplitude, exact.amplitude())
    cancelling = mixture(heads=1000)
    drawn = cancelling.sample(64, generator=generator(0)).amplitude
    assert drawn.mean() < cancelling.amplitude()[0]
    assert (cancelling.heads, cancelling.dimension) == (1000, 1)


def per_head_gradient(heads: int, estimate: Callable[[GaussianMixture], Tensor]) -> list[Tensor]:
    leaves = [
        tensor.expand(heads, *tensor.shape).clone().requires_grad_()
        for tensor in (WEIGHT, MEAN, SCALE, PHASE)
    ]
    return list(torch.autograd.grad(estimate(GaussianMixture(*leaves)).sum(), leaves))


@pytest.mark.parametrize("options", [{}, {"stratified": True}, {"proposal_scale": 0.4}])
def test_gradient_of_the_estimate_is_unbiased(options: dict[str, Any]) -> None:
    lag = torch.tensor([[0.6]], dtype=torch.float64)
    drawn = per_head_gradient(
        4000, lambda model: model.sample(16, generator=generator(5), **options).log_mask(lag)
    )
    exact = per_head_gradient(1, lambda model: model.log_mask(lag))
    for sample, truth in zip(drawn, exact, strict=True):
        standard_error = sample.std(dim=0) / math.sqrt(len(sample))
        assert ((sample.mean(dim=0) - truth[0]).abs() < 4.5 * standard_error).all()


def test_an_empty_spectrum_can_be_sampled() -> None:
    zero = torch.zeros(2, 3)
    samples = GaussianMixture(zero, zero[..., None], zero + 1).sample(5, generator=generator(0))
    assert (samples.ratio_real == 0).all()
    assert samples.frequency.isfinite().all()


def test_bad_input_is_named() -> None:
    exact = mixture(heads=2)
    with pytest.raises(ValueError, match=r"too wide for proposal_scale 0.17: the variance is finite only if"):
        exact.sample(8, proposal_scale=0.17)
    edge = GaussianMixture(exact.weight, exact.mean, torch.full_like(exact.scale, math.sqrt(2)))
    with pytest.raises(ValueError, match="too wide"):
        edge.sample(8, proposal_scale=1.0)
    with pytest.raises(ValueError, match="proposal_scale must be positive, got 0"):
        exact.sample(8, proposal_scale=0.0)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        exact.sample(0)
    with pytest.raises(ValueError, match="scale must be positive"):
        GaussianMixture(exact.weight, exact.mean, -exact.scale).sample(8)
    with pytest.raises(ValueError, match="one-dimensional positions, got l = 2"):
        mixture(dimension=2).sample(8, stratified=True)
    with pytest.raises(ValueError, match=r"weight must be \[H, T\] with T >= 1, got shape \[3\]"):
        GaussianMixture(WEIGHT, MEAN, SCALE)
    with pytest.raises(ValueError, match=r"mean must be \[H, T, l\]"):
        GaussianMixture(exact.weight, exact.mean[0], exact.scale)
    with pytest.raises(ValueError, match=r"phase must be \[H, T\] = \[2, 3\], got \[3\]"):
        GaussianMixture(exact.weight, exact.mean, exact.scale, PHASE)
    with pytest.raises(ValueError, match=r"scale must be torch\.float64 like weight, got torch.float32"):
        GaussianMixture(exact.weight, exact.mean, exact.scale.float())
    with pytest.raises(ValueError, match="stratified or orthogonal, not both"):
        exact.sample(8, stratified=True, orthogonal=True)
    with pytest.raises(ValueError, match=r"must be on one device, got .*mean on meta"):
        GaussianMixture(exact.weight, exact.mean.to("meta"), exact.scale)


def test_samples_are_reproducible() -> None:
    first, second = (mixture().sample(8, generator=generator(8)) for _ in range(2))
    assert isinstance(first, FourierSamples)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
