"""Errors of estimated position functions beside what the theory says of them, for `benchmarks/theory.py`."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kernattn import (
    GaussianMixture,
    LocalTriangle,
    RelativePosition,
    amplitude_error,
    fourier_features,
    gaussian_projection,
    positive_features,
)

COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
LAGS = tuple(range(-32, 65, 2))
VARIANCE_COUNT = 32
UNIFORM_COUNT, UNIFORM_LENGTH, DELTA = 128, 512, 0.05
AMPLITUDES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
FEATURES = (64, 256)
ELEMENTS = 2e6  # of the largest tensor at a time


Nodes = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class System:
    """A position function and a way to draw its frequencies.

    Attributes:
        name: For tables and plots.
        make: The same function for so many heads, which makes heads independent draws.
        nodes: Frequencies ``[N]``, the density of the proposal and the width of their cells; None where draws
            are not independent, so that no variance is predicted.
        options: Of `sample`.
    """

    name: str
    make: Callable[[int], RelativePosition]
    nodes: Callable[[], Nodes] | None = None
    options: dict[str, Any] = field(default_factory=dict)


def mixture(heads: int, *, signed: bool = False) -> GaussianMixture:
    """A bump 20 tokens wide and a faster, longer ripple; if signed, the ripple is negative and shifted."""
    scale = torch.tensor([0.008, 0.004])
    amplitude = torch.tensor([0.6, -0.4 if signed else 0.4])
    weight = amplitude / (2 * math.pi * scale.square()).sqrt()
    mean = torch.tensor([0.0, 0.05])[:, None]
    phase = torch.tensor([0.0, 1.0]) if signed else torch.zeros(2)
    return GaussianMixture(*(x.expand(heads, *x.shape) for x in (weight, mean, scale, phase)))


def triangle(heads: int) -> LocalTriangle:
    """A triangle of height 1 that ends at 32 tokens."""
    return LocalTriangle(torch.ones(heads), torch.full((heads, 1), 32.0))


def normal_density(x: Tensor, mean: float, scale: float) -> Tensor:
    """Density of a Gaussian."""
    return torch.exp(-((x - mean) ** 2) / (2 * scale**2)) / (scale * math.sqrt(2 * math.pi))


def on_a_line(density: Callable[[Tensor], Tensor]) -> Nodes:
    """Even nodes on [-0.2, 0.2], where all the mixtures are."""
    frequency = torch.linspace(-0.2, 0.2, 20_001)
    return frequency, density(frequency), frequency.diff()[0]


def own_nodes() -> Nodes:
    """Of the mixture's own density, whose proportions are 0.6 and 0.4."""
    return on_a_line(lambda x: 0.6 * normal_density(x, 0.0, 0.008) + 0.4 * normal_density(x, 0.05, 0.004))


def fixed_nodes() -> Nodes:
    """Of the fixed Gaussian proposal."""
    return on_a_line(lambda x: normal_density(x, 0.0, 0.03))


def fejer_nodes() -> Nodes:
    """Even nodes for the density ``32 sinc(32 xi)^2``, out to where the rest is 2e-4 of it."""
    frequency = torch.linspace(-20, 20, 100_001)
    return frequency, 32 * torch.sinc(32 * frequency).square(), frequency.diff()[0]


def cauchy_nodes() -> Nodes:
    """Midpoints of equal probability of the Cauchy density of scale ``1 / (32 pi)``."""
    probability = (torch.arange(50_000) + 0.5) / 50_000
    frequency = torch.tan(math.pi * (probability - 0.5)) / (32 * math.pi)
    density = 32 / (1 + (32 * math.pi * frequency).square())
    return frequency, density, 1 / 50_000 / density


SYSTEMS = (
    System("mixture", mixture, own_nodes),
    System("mixture, signed", lambda heads: mixture(heads, signed=True), own_nodes),
    System("mixture, fixed proposal", mixture, fixed_nodes, {"proposal_scale": 0.03}),
    System("triangle", triangle, fejer_nodes),
    System("triangle, Cauchy", triangle, cauchy_nodes, {"proposal": "cauchy"}),
    System("mixture, stratified", mixture, None, {"stratified": True}),
)


def estimates(system: System, count: int, lag: Tensor, draws: int, seed: int) -> Iterator[Tensor]:
    """``N`` at lags ``[n]``, some draws ``[d, n]`` at a time."""
    generator = torch.Generator().manual_seed(seed)
    size = max(1, min(draws, int(ELEMENTS / (count * len(lag)))))
    for start in range(0, draws, size):
        exact = system.make(min(size, draws - start))
        yield exact.sample(count, generator=generator, **system.options).log_mask(lag[:, None])


@functools.lru_cache
def predicted_variance(system: System) -> Tensor | None:
    """``r`` times the variance of ``N`` at each lag, by quadrature over the proposal."""
    if system.nodes is None:
        return None
    lag = torch.tensor(LAGS, dtype=torch.get_default_dtype())
    frequency, density, width = system.nodes()
    exact = system.make(1)
    real, imag = exact.spectrum(frequency[None, :, None])  # type: ignore[attr-defined]
    square = torch.complex(real[0], imag[0]).square() / density * width
    turned = torch.polar(torch.ones(()), 4 * math.pi * lag[:, None] * frequency)
    second = (square.abs() + (square * turned).real).sum(dim=-1) / 2
    return second - exact.log_mask(lag[:, None])[0].square()


@dataclass(frozen=True)
class ErrorRow:
    """How far N is from f at one number of samples.

    Attributes:
        system: Its name.
        count: ``r``.
        error: Root mean square over lags and draws.
        predicted: The same by the variance formula, or None.
        deviation: Largest distance of a mean over draws from f, in standard errors.
        exponential_bias: Mean over lags of ``E exp(N) / exp(f) - 1``.
        exponential_predicted: Mean of ``exp(Var / 2) - 1``, or None.
    """

    system: str
    count: int
    error: float
    predicted: float | None
    deviation: float
    exponential_bias: float
    exponential_predicted: float | None


def error_row(system: System, count: int, draws: int, seed: int) -> ErrorRow:
    """Measure the error at one number of samples."""
    lag = torch.tensor(LAGS, dtype=torch.get_default_dtype())
    enough = max(500, draws * 64 // max(count, 64))
    drawn = torch.cat(list(estimates(system, count, lag, enough, seed + count)))
    truth = system.make(1).log_mask(lag[:, None])[0]
    standard_error = drawn.std(dim=0) / math.sqrt(len(drawn))
    variance = predicted_variance(system)
    return ErrorRow(
        system.name,
        count,
        (drawn - truth).square().mean().sqrt().item(),
        None if variance is None else (variance.mean() / count).sqrt().item(),
        ((drawn.mean(dim=0) - truth).abs() / standard_error.clamp_min(1e-12)).max().item(),
        (torch.exp(drawn - truth).mean(dim=0) - 1).mean().item(),
        None if variance is None else torch.expm1(variance / count / 2).mean().item(),
    )


@dataclass(frozen=True)
class VarianceRow:
    """Variance of N at one lag, times r.

    Attributes:
        system: Its name.
        lag: In tokens.
        measured: Over draws.
        predicted: By the formula, or None.
    """

    system: str
    lag: int
    measured: float
    predicted: float | None


def variance_rows(system: System, draws: int, seed: int) -> list[VarianceRow]:
    """Measure the variance at every lag."""
    lag = torch.tensor(LAGS, dtype=torch.get_default_dtype())
    count = VARIANCE_COUNT
    drawn = torch.cat(list(estimates(system, count, lag, 4 * draws, seed + 1)))
    measured = count * drawn.var(dim=0)
    predicted = predicted_variance(system)
    return [
        VarianceRow(
            system.name,
            z,
            measured[k].item(),
            None if predicted is None else predicted[k].item(),
        )
        for k, z in enumerate(LAGS)
    ]


@dataclass(frozen=True)
class UniformRow:
    """Largest error of N over all lags of a sequence.

    Attributes:
        system: Its name.
        count: ``r``.
        length: ``L``.
        mean: Over draws.
        quantile: The 95th percentile.
        bound: What the theorem says it does not exceed with that probability.
    """

    system: str
    count: int
    length: int
    mean: float
    quantile: float
    bound: float


def uniform_row(system: System, count: int, length: int, draws: int, seed: int) -> UniformRow:
    """Measure the largest error of even functions whose ratios are 1."""
    lag = torch.arange(float(length))
    truth = system.make(1).log_mask(lag[:, None])[0]
    enough = max(100, min(400, int(draws * 4e3 / (count * length))))
    blocks = estimates(system, count, lag, enough, seed + length)
    largest = torch.cat([(drawn - truth).abs().amax(dim=1) for drawn in blocks])
    return UniformRow(
        system.name,
        count,
        length,
        largest.mean().item(),
        largest.quantile(1 - DELTA).item(),
        math.sqrt(2 * math.log(2 * length**2 / DELTA) / count),
    )


@dataclass(frozen=True)
class AmplitudeRow:
    """Noise of positive features of a position at lag 0.

    Attributes:
        amplitude: ``G``.
        features: ``m``.
        measured: Relative standard deviation with independent rows.
        orthogonal: The same with orthogonal rows.
        predicted: The law.
    """

    amplitude: float
    features: int
    measured: float
    orthogonal: float
    predicted: float


def amplitude_rows(features: int, draws: int, seed: int) -> list[AmplitudeRow]:
    """Draw projections of one position's features, alone beside no content, for every amplitude."""
    generator = torch.Generator().manual_seed(seed + features)
    samples = mixture(1).sample(4, generator=generator)
    pairs = [
        fourier_features(samples._replace(ratio_real=g * samples.ratio_real), torch.tensor([[17]]))
        for g in AMPLITUDES
    ]
    noise: list[Tensor] = []
    for orthogonal in (False, True):
        parts = []
        for _ in range(0, 25 * draws * min(FEATURES) // features, 1000):
            rows = gaussian_projection(
                features, 8, shape=(1000,), orthogonal=orthogonal, generator=generator, dtype=torch.float64
            )
            kernels = [positive_features(x, rows) * positive_features(y, rows) for x, y in pairs]
            parts.append(torch.stack([kernel.sum(dim=(1, 2)) for kernel in kernels]))
        noise.append(torch.cat(parts, dim=1).std(dim=1) / torch.tensor(AMPLITUDES).exp())
    law = amplitude_error(torch.tensor(AMPLITUDES), features)
    return [
        AmplitudeRow(g, features, noise[0][k].item(), noise[1][k].item(), law[k].item())
        for k, g in enumerate(AMPLITUDES)
    ]


@dataclass(frozen=True)
class Findings:
    """All rows."""

    errors: list[ErrorRow]
    variances: list[VarianceRow]
    uniform: list[UniformRow]
    amplitudes: list[AmplitudeRow]


def measure(draws: int, seed: int) -> Findings:
    """Run all experiments."""
    exact = [system for system in SYSTEMS if system.name in ("mixture", "triangle")]
    grid = {(count, UNIFORM_LENGTH) for count in COUNTS} | {(UNIFORM_COUNT, length) for length in LENGTHS}
    return Findings(
        [error_row(system, count, draws, seed) for system in SYSTEMS for count in COUNTS],
        [row for system in SYSTEMS for row in variance_rows(system, draws, seed)],
        [uniform_row(system, *at, draws, seed) for system in exact for at in sorted(grid)],
        [row for m in FEATURES for row in amplitude_rows(m, draws, seed)],
    )


def slope(rows: list[ErrorRow]) -> float:
    """Of the logarithm of the error against that of r."""
    x = torch.tensor([math.log(row.count) for row in rows])
    y = torch.tensor([math.log(row.error) for row in rows])
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())
