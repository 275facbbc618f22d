import math
from collections.abc import Callable

import pytest
import torch
from scipy.special import sici
from scipy.stats import norm, t
from torch import Tensor

from kernattn.spectra.draws import (
    cauchy_quantile,
    fejer,
    fejer_proposals,
    fejer_quantile,
    normal_quantile,
    sine_integral,
    student_quantile,
    uniform,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_sine_integral_is_scipys_with_its_gradient() -> None:
    x = torch.cat([torch.linspace(-30, 30, 2001), torch.logspace(-6, 7, 500)]).double()
    torch.testing.assert_close(sine_integral(x), torch.from_numpy(sici(x.numpy())[0]), rtol=0, atol=1e-14)
    some = torch.tensor([-7.0, -0.5, 0.0, 3.0, 5.9, 6.1], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(sine_integral, some)
    torch.autograd.gradgradcheck(sine_integral, some)
    mapped = torch.func.vmap(torch.func.grad(sine_integral))(some.detach())
    torch.testing.assert_close(mapped, torch.sinc(some.detach() / math.pi))
    assert sine_integral(x.float()).dtype == torch.float32


PROBABILITY = torch.linspace(0.001, 0.999, 333, dtype=torch.float64)


@pytest.mark.parametrize("freedom", [1, 3, 5])
def test_quantiles_of_students_t_are_scipys(freedom: int) -> None:
    expected = torch.from_numpy(t.ppf(PROBABILITY.numpy(), freedom))
    torch.testing.assert_close(student_quantile(PROBABILITY, freedom), expected, rtol=1e-10, atol=1e-10)


def test_normal_quantiles_are_scipys() -> None:
    expected = torch.from_numpy(norm.ppf(PROBABILITY.numpy()))
    torch.testing.assert_close(normal_quantile(PROBABILITY), expected)


@pytest.mark.parametrize(
    "quantile", [normal_quantile, cauchy_quantile, fejer_quantile, lambda x: student_quantile(x, 3)]
)
def test_quantiles_are_finite_odd_and_rising(quantile: Callable[[Tensor], Tensor]) -> None:
    edges = torch.tensor([0.0, 1e-12, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
    values = quantile(edges)
    assert values.isfinite().all()
    assert (values.diff() > 0).all()
    torch.testing.assert_close(values[2:4], -values[[4, 3]], rtol=1e-6, atol=1e-12)


def test_fejer_proposals_are_accepted_pi_quarters_of_the_time() -> None:
    count = 200_000
    proposal, accepted = fejer_proposals((count,), generator=generator(0))
    assert proposal.isfinite().all()
    error = math.sqrt(math.pi / 4 * (1 - math.pi / 4) / count)
    assert abs(float(accepted.double().mean()) - math.pi / 4) < 4 * error


def test_fejer_draws_have_the_fejer_distribution() -> None:
    count = 100_000
    draws = fejer((count // 100, 10, 10), generator=generator(1)).flatten()
    edges = fejer_quantile(torch.linspace(0.1, 0.9, 9, dtype=torch.float64))
    share = (draws[:, None] < edges).double().mean(dim=0)
    level = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    assert ((share - level).abs() < 4 * (level * (1 - level) / count).sqrt()).all()
    frequency = torch.linspace(0, float(edges[-1]), 4001, dtype=torch.float64)
    mass = torch.trapezoid(torch.sinc(frequency).square(), frequency)
    torch.testing.assert_close(mass, torch.tensor(0.4, dtype=torch.float64), rtol=0, atol=1e-6)


def test_stratified_uniforms_have_one_draw_in_each_slice() -> None:
    draws = uniform((3, 16, 2), stratified=True, generator=generator(2))
    slices = (draws * 16).long()
    assert torch.equal(slices, torch.arange(16)[:, None].expand(3, 16, 2))
