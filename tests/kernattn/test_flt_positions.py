"""FLT with positions of any dimension, of each row's own, between two sequences, and with padding."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernattn import (
    FourierSamples,
    GaussianMixture,
    LocalTriangle,
    PositionTable,
    RelativePosition,
    ShiftInvariantKernel,
    causal_flt_attention,
    extend,
    flt_attention,
    fourier_features,
    gaussian_projection,
    kernel_attention,
    pairwise_lags,
    positive_features,
    relative_log_mask,
    softmax_attention,
)

HEADS, DEPTH, WIDTH, FEATURES, SAMPLES = 2, 4, 3, 9, 5
Inputs = tuple[Tensor, Tensor, Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def tokens(length: int = 6, *, batch: int = 2, seed: int = 0) -> Inputs:
    shapes = (DEPTH, DEPTH, WIDTH)
    query, key, value = (normal(batch, HEADS, length, w, seed=seed + k) for k, w in enumerate(shapes))
    return query, key, value


def spectra(dimension: int, seed: int = 0) -> dict[str, RelativePosition]:
    """One of each kind, with weights of both signs and odd parts."""
    heads = torch.tensor([0.4, -0.3], dtype=torch.float64)
    width = 0.5 + normal(HEADS, dimension, seed=seed).abs()
    scale = 0.1 + normal(HEADS, 3, seed=seed + 2).abs()
    volume = (2 * math.pi * scale.square()) ** (dimension / 2)
    return {
        "mixture": GaussianMixture(
            normal(HEADS, 3, seed=seed) / 3 / volume,
            normal(HEADS, 3, dimension, seed=seed + 1),
            scale,
            normal(HEADS, 3, seed=seed + 3),
        ),
        "kernel": ShiftInvariantKernel("matern32", heads, width),
        "table": PositionTable(normal(HEADS, *[3] * dimension, seed=seed)),
        "triangle": LocalTriangle(heads, width),
    }


def draw(samples: FourierSamples, *, features: int = FEATURES, seed: int = 7) -> dict[str, Any]:
    width = DEPTH + 2 * samples.frequency.shape[1]
    projection = gaussian_projection(
        features, width, shape=(HEADS,), generator=generator(seed), dtype=torch.float64
    )
    return {"samples": samples, "projection": projection}


def dense(
    inputs: Inputs,
    samples: FourierSamples,
    projection: Tensor,
    position: Tensor,
    key_position: Tensor | None = None,
    *,
    causal: bool = False,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Attention with the matrix of the same positive features, built apart."""
    query, key, value = inputs
    phi, _ = fourier_features(samples, position)
    _, psi = fourier_features(samples, position if key_position is None else key_position)
    left, right = (
        positive_features(extend(x, fourier), projection) for x, fourier in ((query, phi), (key, psi))
    )
    weights = left @ right.mT
    if key_mask is not None:
        weights = weights * key_mask[:, None, None, :]
    return kernel_attention(weights, value, causal=causal, eps=1e-300)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3),
    st.sampled_from(["mixture", "kernel", "table", "triangle"]),
    st.booleans(),
    st.integers(0, 6),
    st.integers(0, 10**6),
)
def test_all_forms_are_the_matrix_of_their_features(
    dimension: int, name: str, own: bool, length: int, seed: int
) -> None:
    """On fresh spectra, positions, padding and lengths; positions of each row's own or common."""
    inputs = tokens(length, seed=seed)
    options = draw(spectra(dimension, seed)[name].sample(SAMPLES, generator=generator(seed)))
    position = normal(*([2] if own else []), length, dimension, seed=seed)
    mask = torch.rand(2, length, generator=generator(seed)) < 0.7
    expected = dense(inputs, **options, position=position, key_mask=mask)
    actual = flt_attention(*inputs, **options, position=position, key_mask=mask)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    expected = dense(inputs, **options, position=position, key_mask=mask, causal=True)
    actual, _ = causal_flt_attention(*inputs, **options, position=position, key_mask=mask, chunk=2)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("own", [False, True])
def test_features_multiply_to_the_estimate_in_any_dimension(dimension: int, own: bool) -> None:
    position = normal(*([2] if own else []), 6, dimension, seed=1)
    for relative in spectra(dimension).values():
        samples = relative.sample(SAMPLES, generator=generator(0))
        phi, psi = fourier_features(samples, position)
        expected = samples.log_mask(pairwise_lags(position)).movedim(0, -3)
        torch.testing.assert_close(phi @ psi.mT, expected)
        amplitude = samples.amplitude[:, None].expand(phi.shape[:-1])
        for features in (phi, psi):
            torch.testing.assert_close(features.square().sum(dim=-1), amplitude)


def test_a_table_is_exact_in_the_features_of_its_grid() -> None:
    table = PositionTable(normal(HEADS, 5, 7, seed=0))
    position = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    phi, psi = fourier_features(table.exact_samples([3, 4]), position)
    torch.testing.assert_close(phi @ psi.mT, relative_log_mask(table, position), rtol=0, atol=1e-10)


def test_queries_and_keys_may_be_at_other_places() -> None:
    query, _, _ = tokens(5)
    _, key, value = tokens(8, seed=3)
    options = draw(spectra(3)["kernel"].sample(SAMPLES, generator=generator(0)))
    position, key_position = normal(2, 5, 3, seed=1), normal(8, 3, seed=2)
    expected = dense((query, key, value), **options, position=position, key_position=key_position)
    actual = flt_attention(query, key, value, **options, position=position, key_position=key_position)
    torch.testing.assert_close(actual, expected)
    with pytest.raises(ValueError, match=r"query and key disagree on L \(axis 2\): 5, 8"):
        flt_attention(query, key, value, **options, position=position)


ONE = torch.ones(8, dtype=torch.float64)
CLOUDS: dict[str, RelativePosition] = {
    "mixture": GaussianMixture(
        6 * torch.stack([ONE, -ONE / 2], dim=-1),
        torch.stack([0 * ONE, 0.3 * ONE], dim=-1)[..., None].expand(8, 2, 3),
        0.2 * torch.stack([ONE, ONE], dim=-1),
    ),
    "kernel": ShiftInvariantKernel("matern32", 0.8 * ONE, ONE[:, None].expand(8, 3)),
    "triangle": LocalTriangle(-0.8 * ONE, 3 * ONE[:, None].expand(8, 3)),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_points_in_space_approach_the_reference(name: str) -> None:
    """In three dimensions, by more samples and features; far nearer than attention without positions."""
    relative, draws, length = CLOUDS[name], 8, 10
    query, key, value = (x[:1, :1] / 2 for x in tokens(length))
    position = normal(1, length, 3, seed=4)
    exact = softmax_attention(query, key, value, log_mask=relative_log_mask(relative, position)[:, :1])
    without = softmax_attention(query, key, value)

    def outputs(features: int, samples: int) -> Tensor:
        drawn = relative.sample(samples, generator=generator(5))
        projection = gaussian_projection(
            features,
            DEPTH + 2 * samples,
            shape=(draws,),
            orthogonal=False,
            generator=generator(6),
            dtype=torch.float64,
        )
        return flt_attention(
            *(x.expand(1, draws, -1, -1) for x in (query, key, value)),
            samples=drawn,
            projection=projection,
            position=position,
        )

    def error(output: Tensor) -> float:
        """The median over draws, whose tails are heavy."""
        return float((output - exact).square().mean(dim=(0, 2, 3)).sqrt().median())

    results = [outputs(64, 8), outputs(512, 32), outputs(2048, 128)]
    errors = [error(output) for output in results]
    assert errors[2] < errors[1] < errors[0] / 2
    assert errors[2] < errors[0] / 3
    assert error(results[2].mean(dim=1, keepdim=True)) < error(without) / 2.5


def test_gradients_reach_learned_spectra_through_attention() -> None:
    """Of one fixed draw. A mixture that is its own density holds its proportions fixed in a gradient."""
    inputs = tokens(4, batch=1)
    position = normal(4, 1, seed=1)

    def attend(relative: RelativePosition, **options: Any) -> Tensor:
        samples = relative.sample(SAMPLES, generator=generator(0), **options)
        return causal_flt_attention(*inputs, **draw(samples), position=position)[0]

    known = spectra(1)
    mixture, kernel, table = known["mixture"], known["kernel"], known["table"]
    assert isinstance(mixture, GaussianMixture)
    assert isinstance(kernel, ShiftInvariantKernel)
    assert isinstance(table, PositionTable)
    cases: list[tuple[Any, list[Tensor]]] = [
        (lambda *x: attend(GaussianMixture(*x), proposal_scale=2.0), list(vars(mixture).values())),
        (
            lambda mean, phase: attend(GaussianMixture(mixture.weight, mean, mixture.scale, phase)),
            [mixture.mean, normal(HEADS, 3, seed=3)],
        ),
        (
            lambda *x: attend(ShiftInvariantKernel("matern32", *x)),
            [kernel.weight, kernel.lengthscale],
        ),
        (lambda bias: attend(PositionTable(bias)), [table.bias]),
    ]
    for function, values in cases:
        leaves = [x.detach().clone().requires_grad_() for x in values]
        torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing_whatever_it_holds(causal: bool) -> None:
    query, key, value = (x.float() for x in tokens())
    options = draw(spectra(1)["mixture"].sample(SAMPLES, generator=generator(0)))
    mask = torch.tensor([[True] * 4 + [False] * 2, [False] * 6])

    def attend() -> Tensor:
        if causal:
            return causal_flt_attention(query, key, value, **options, key_mask=mask)[0]
        return flt_attention(query, key, value, **options, key_mask=mask)

    before = attend()
    key[:, :, 4:], value[:, :, 4:] = torch.nan, torch.inf
    key[1], value[1] = torch.nan, torch.nan
    assert torch.equal(before, attend())
    assert (before[1] == 0).all()
    assert before.isfinite().all()


def test_padded_rows_have_finite_gradients() -> None:
    inputs = [x.requires_grad_() for x in tokens()]
    query, key, value = inputs
    options = draw(spectra(1)["kernel"].sample(SAMPLES, generator=generator(0)))
    mask = torch.tensor([[True] * 6, [False] * 6])
    output = flt_attention(query, key, value, **options, key_mask=mask)
    reference = softmax_attention(query, key, value, causal=True, key_mask=mask)
    for result in (output, reference):
        for gradient in torch.autograd.grad(result.square().sum(), inputs):
            assert gradient.isfinite().all()
            assert (gradient[1] == 0).all()


def test_half_precision_has_features_of_positions_in_float32() -> None:
    query, key, value = (x.bfloat16() for x in tokens())
    relative = LocalTriangle(torch.tensor([0.4, -0.3]), torch.tensor([[2.0], [3.0]]))
    samples = relative.sample(SAMPLES, generator=generator(0))
    options = {"samples": samples, "projection": draw(samples)["projection"].float()}
    position = torch.randn(2, 6, 1, generator=generator(1))
    output = flt_attention(query, key, value, **options, position=position)
    expected = flt_attention(query.float(), key.float(), value.float(), **options, position=position)
    assert torch.equal(output, expected.bfloat16())


def test_bad_input_is_named() -> None:
    query, key, value = tokens()
    options = draw(spectra(1)["mixture"].sample(SAMPLES, generator=generator(0)))
    with pytest.raises(ValueError, match=r"position must be \[L, l\] or \[B, L, l\] with L = 6 and B = 2"):
        flt_attention(query, key, value, **options, position=torch.zeros(3, 6, 1))
    with pytest.raises(ValueError, match="frequency and position disagree on l"):
        flt_attention(query, key, value, **options, position=torch.zeros(6, 2))
    with pytest.raises(ValueError, match=r"frequency has 2 heads \(axis 0\) and query 1 \(axis 1\)"):
        flt_attention(query[:, :1], key[:, :1], value[:, :1], **options)
    one_head = FourierSamples(*(x[:1] for x in options["samples"]))
    with pytest.raises(ValueError, match=r"projection has 2 heads \(axis 0\) and query 1 \(axis 1\)"):
        flt_attention(*(x[:, :1] for x in (query, key, value)), **{**options, "samples": one_head})
    with pytest.raises(ValueError, match=r"one device, got query on cpu, .* projection on meta"):
        flt_attention(
            query, key, value, samples=options["samples"], projection=options["projection"].to("meta")
        )
    with pytest.raises(ValueError, match="one device, got query on cpu, key on meta, value on cpu"):
        flt_attention(query, key.to("meta"), value, **options)
    with pytest.raises(ValueError, match=r"key_mask must be \[B, L'\] = \[2, 6\], got \[6\]"):
        flt_attention(query, key, value, **options, key_mask=torch.ones(6, dtype=torch.bool))
    with pytest.raises(ValueError, match="key_mask must be boolean, True where a key takes part"):
        causal_flt_attention(query, key, value, **options, key_mask=torch.ones(2, 6))
