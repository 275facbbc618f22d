"""What holds of every position function: its spectrum, its samples, their gradients and their variance."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from kernattn import (
    GaussianMixture,
    LocalBox,
    LocalTriangle,
    PositionTable,
    RelativePosition,
    ShiftInvariantKernel,
    relative_log_mask,
)

LAGS = torch.tensor([0.0, 0.4, -0.9, 1.6, -2.3], dtype=torch.float64)
HEADS = 2000


class Case(NamedTuple):
    """A position function of parameters that every head shares, so that heads are independent draws."""

    make: Callable[..., RelativePosition]
    parameters: dict[str, Tensor]
    dimension: int = 1
    options: dict[str, Any] = {}  # noqa: RUF012
    constant: tuple[str, ...] = ()
    integers: bool = False

    def build(self, heads: int = 1, *, dtype: torch.dtype = torch.float64, grad: bool = False) -> Any:
        tensors = {
            name: tensor.to(dtype).expand(heads, *tensor.shape).clone()
            for name, tensor in self.parameters.items()
        }
        if grad:
            for name in tensors.keys() - set(self.constant):
                tensors[name].requires_grad_()
        return self.make(**tensors), tensors

    def lags(self) -> Tensor:
        lag = torch.stack([LAGS * (-0.7) ** axis for axis in range(self.dimension)], dim=-1)
        return lag.round().long() if self.integers else lag


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def kernel(name: Any) -> Callable[..., ShiftInvariantKernel]:
    return lambda weight, lengthscale: ShiftInvariantKernel(name, weight, lengthscale)


def wide(scale: float) -> Callable[..., LocalBox]:
    return lambda height, radius: LocalBox(height, radius, scale)


MIXTURE = {
    "weight": tensor([0.6, -0.4]),
    "mean": tensor([[0.1], [0.3]]),
    "scale": tensor([0.2, 0.1]),
    "phase": tensor([0.0, -1.0]),
}
KERNEL = {"weight": tensor(-0.7), "lengthscale": tensor([0.8])}
PLANE = {"weight": tensor(0.7), "lengthscale": tensor([0.8, 1.5])}
SPACE = {"weight": tensor(0.7), "lengthscale": tensor([0.8, 1.5, 1.1])}
TABLE = {"bias": tensor([0.2, -0.5, 0.9, 0.4, -0.1])}
LOCAL = {"height": tensor(-0.8), "radius": tensor([1.3])}
LOCAL_PLANE = {"height": tensor(0.8), "radius": tensor([1.3, 2.1])}
NAMES = ("gaussian", "laplace", "matern12", "matern32", "matern52")

CASES = {
    "mixture": Case(GaussianMixture, MIXTURE),
    "table": Case(PositionTable, TABLE, integers=True),
    "table-stratified": Case(PositionTable, TABLE, 1, {"stratified": True}),
    "table-plane": Case(
        PositionTable, {"bias": torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)}, 2, integers=True
    ),
    "triangle": Case(LocalTriangle, LOCAL, constant=("radius",)),
    "triangle-stratified": Case(LocalTriangle, LOCAL, 1, {"stratified": True}, ("radius",)),
    "triangle-cauchy": Case(LocalTriangle, LOCAL, 1, {"proposal": "cauchy"}, ("radius",)),
    "triangle-plane": Case(LocalTriangle, LOCAL_PLANE, 2, constant=("radius",)),
    "box": Case(wide(1.5), LOCAL),
    "box-low": Case(wide(0.05), LOCAL),
    "box-stratified": Case(wide(1.5), LOCAL, 1, {"stratified": True}),
    "box-plane": Case(wide(1.5), LOCAL_PLANE, 2),
    **{name: Case(kernel(name), KERNEL) for name in NAMES},
    **{f"{name}-stratified": Case(kernel(name), KERNEL, 1, {"stratified": True}) for name in NAMES},
    **{f"{name}-plane": Case(kernel(name), PLANE, 2) for name in NAMES},
    **{
        f"{name}-orthogonal": Case(kernel(name), SPACE, 3, {"orthogonal": True})
        for name in NAMES
        if name != "laplace"
    },
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_mean(drawn: Tensor, truth: Tensor) -> None:
    """The mean over the first axis is within 4 standard errors of the truth, and of rounding."""
    standard_error = drawn.std(dim=0) / math.sqrt(len(drawn))
    assert ((drawn.mean(dim=0) - truth).abs() < 4 * standard_error + 1e-12).all()


@pytest.mark.parametrize("name", CASES)
def test_estimates_are_unbiased(name: str) -> None:
    case = CASES[name]
    exact, _ = case.build(HEADS)
    samples = exact.sample(8, generator=generator(1), **case.options)
    assert samples.frequency.shape == (HEADS, 8, case.dimension)
    assert_mean(samples.log_mask(case.lags()), exact.log_mask(case.lags())[0])


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_estimates_are_unbiased(name: str) -> None:
    case = CASES[name]
    lag = case.lags()[1:3]
    direction = torch.tensor([1.0, -0.6], dtype=torch.float64)
    exact, truth = case.build(1, grad=True)
    (exact.log_mask(lag) * direction).sum().backward()
    drawn, leaves = case.build(HEADS, grad=True)
    samples = drawn.sample(8, generator=generator(2), **case.options)
    (samples.log_mask(lag) * direction).sum().backward()
    for parameter in leaves.keys() - set(case.constant):
        assert_mean(leaves[parameter].grad, truth[parameter].grad[0])
        assert truth[parameter].grad.abs().max() > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_amplitude_bounds_that_of_samples(name: str) -> None:
    case = CASES[name]
    exact, _ = case.build(HEADS)
    drawn = exact.sample(8, generator=generator(3), **case.options).amplitude
    expected = exact.amplitude()
    assert expected.shape == (HEADS,)
    error = drawn.std() / math.sqrt(HEADS)
    assert drawn.mean() < expected[0] * 1.02 + 4 * error
    if name.startswith(("table", "triangle", *NAMES)):
        assert drawn.mean() > expected[0] * 0.98 - 4 * error


@pytest.mark.parametrize("name", [name for name in CASES if "-" not in name])
def test_protocol_shapes_and_dtypes(name: str) -> None:
    case = CASES[name]
    exact, _ = case.build(2, dtype=torch.float32)
    assert isinstance(exact, RelativePosition)
    assert (exact.heads, exact.dimension) == (2, case.dimension)
    position = torch.arange(5)[:, None].expand(5, case.dimension)
    assert relative_log_mask(exact, position).shape == (2, 5, 5)
    assert relative_log_mask(exact, position.expand(3, 5, -1), position[:4]).shape == (3, 2, 5, 4)
    assert exact.log_mask(torch.zeros(0, case.dimension)).shape == (2, 0)
    samples = exact.sample(4, generator=generator(0), **case.options)
    again = exact.sample(4, generator=generator(0), **case.options)
    assert all(x.dtype == torch.float32 for x in samples)
    assert all(torch.equal(a, b) for a, b in zip(samples, again, strict=True))


def quadrature(edges: list[float], panels: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights of order 5 in each of so many panels between the edges."""
    root = [math.sqrt(5 - 2 * math.sqrt(10 / 7)) / 3, math.sqrt(5 + 2 * math.sqrt(10 / 7)) / 3]
    share = [(322 + 13 * math.sqrt(70)) / 900, (322 - 13 * math.sqrt(70)) / 900]
    node = tensor([-root[1], -root[0], 0.0, root[0], root[1]])
    weight = tensor([share[1], share[0], 128 / 225, share[0], share[1]])
    cuts = torch.cat(
        [
            torch.linspace(a, b, panels + 1, dtype=torch.float64)[: None if b == edges[-1] else -1]
            for a, b in itertools.pairwise(edges)
        ]
    )
    half = cuts.diff()[:, None] / 2
    return (cuts[:-1, None] + half * (1 + node)).flatten(), (half * weight).flatten()


FREQUENCIES = tensor([0.0, 0.07, -0.31, 0.9])
SUPPORTS = {
    "triangle": [-1.3, 0.0, 1.3],
    **{name: [-40.0, -8.0, 0.0, 8.0, 40.0] for name in NAMES},
}


@pytest.mark.parametrize("name", SUPPORTS)
def test_spectrum_is_the_transform_of_the_position_function(name: str) -> None:
    exact, _ = CASES[name].build()
    lag, weight = quadrature(SUPPORTS[name], 150)
    angle = 2 * math.pi * FREQUENCIES[:, None] * lag
    values = exact.log_mask(lag[:, None])[0] * weight
    real, imag = exact.spectrum(FREQUENCIES[None, :, None])
    torch.testing.assert_close(real[0], (values * angle.cos()).sum(dim=-1), rtol=0, atol=1e-8)
    torch.testing.assert_close(imag[0], -(values * angle.sin()).sum(dim=-1), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("name", "band"), [("table", 0.5), ("box", 1.5), ("box-low", 0.05)])
def test_position_function_is_the_integral_of_a_spectrum_in_a_band(name: str, band: float) -> None:
    exact, _ = CASES[name].build()
    frequency, weight = quadrature([-band, 0.0, band], 60)
    real, imag = exact.spectrum(frequency[None, :, None])
    angle = 2 * math.pi * LAGS[:, None] * frequency
    integral = ((real[0] * angle.cos() - imag[0] * angle.sin()) * weight).sum(dim=-1)
    torch.testing.assert_close(exact.log_mask(LAGS[:, None])[0], integral, rtol=0, atol=1e-9)
    outside = exact.spectrum(tensor([[[band * 1.01], [-band * 7]]]))
    assert all((part == 0).all() for part in outside)


@pytest.mark.parametrize("name", ["matern12", "matern32", "matern52", "gaussian"])
def test_spectra_in_the_plane_are_hankel_transforms(name: str) -> None:
    weight, lengthscale = tensor([0.7]), tensor([[0.8, 0.8]])
    exact = ShiftInvariantKernel(name, weight, lengthscale)  # type: ignore[arg-type]
    radius, share = quadrature([0.0, 8.0, 40.0], 150)
    values = exact.log_mask(torch.stack([radius, 0 * radius], dim=-1))[0] * radius * share
    frequency = tensor([0.1, 0.3, 0.8])
    expected = 2 * math.pi * (torch.special.bessel_j0(2 * math.pi * frequency[:, None] * radius) * values)
    points = torch.stack([0.6 * frequency, -0.8 * frequency], dim=-1)[None]
    torch.testing.assert_close(exact.spectrum(points)[0][0], expected.sum(dim=-1), rtol=0, atol=1e-7)


CONSTANT = ("triangle", "triangle-plane", *NAMES, *(f"{name}-plane" for name in NAMES))


@pytest.mark.parametrize("name", CONSTANT)
def test_ratios_are_constant_and_the_variance_is_that_of_the_theory(name: str) -> None:
    """Under p in proportion to g the variance is ``(f(0)^2 (1 + f(2 z) / f(0)) / 2 - f(z)^2) / r``."""
    heads, count, case = 20000, 4, CASES[name]
    exact, _ = case.build(heads)
    samples = exact.sample(count, generator=generator(4), **case.options)
    origin, here, twice = (exact.log_mask(x)[0] for x in (0 * case.lags()[:1], case.lags(), 2 * case.lags()))
    torch.testing.assert_close(samples.ratio_real, origin.expand(heads, count), rtol=1e-12, atol=0)
    assert (samples.ratio_imag == 0).all()
    expected = (origin**2 * (1 + twice / origin) / 2 - here**2) / count
    torch.testing.assert_close(samples.log_mask(case.lags()).var(dim=0), expected, rtol=0.07, atol=1e-12)


@pytest.mark.parametrize("name", ["table", "triangle", "box", "matern12"])
def test_error_falls_as_the_root_of_the_samples(name: str) -> None:
    case, counts = CASES[name], [16, 64, 256, 1024]
    exact, _ = case.build(500)
    lag = case.lags()[2:3]
    truth = exact.log_mask(lag)
    errors = [
        (exact.sample(r, generator=generator(r), **case.options).log_mask(lag) - truth).square().mean().sqrt()
        for r in counts
    ]
    logs = torch.tensor(counts, dtype=torch.float64).log()
    centred = logs - logs.mean()
    slope = (centred * torch.stack(errors).log()).sum() / centred.square().sum()
    assert -0.6 < slope < -0.4


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("-stratified")])
def test_stratified_samples_vary_far_less(name: str) -> None:
    case = CASES[name]
    exact, _ = case.build(500)
    plain, stratified = (
        exact.sample(32, generator=generator(5), stratified=flag).log_mask(case.lags()[1:4]).var(dim=0)
        for flag in (False, True)
    )
    assert (stratified < plain / 3).all()


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].dimension > 1])
def test_stratified_samples_need_a_line(name: str) -> None:
    exact, _ = CASES[name].build()
    with pytest.raises(ValueError, match="stratified samples need one-dimensional positions, got l = "):
        exact.sample(4, stratified=True)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        exact.sample(0)
