"""The fused features against their definitions, outputs and gradients."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernattn import FourierSamples, extend, fourier_features, positive_features
from kernattn.fused import content_features, flt_features
from tests.kernattn.comparing import assert_near

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(
    length: int = 9, *, batch: int = 2, heads: int = 3, dimension: int = 2, rows: bool = False, seed: int = 0
) -> list[Tensor]:
    """Queries, keys, frequencies, both parts of the ratios, a projection and positions."""
    place = (batch, length, dimension) if rows else (length, dimension)
    return [
        normal(batch, heads, length, 4, seed=seed),
        normal(batch, heads, length, 4, seed=seed + 1),
        normal(heads, 3, dimension, seed=seed + 2),
        normal(heads, 3, seed=seed + 3) / 2,
        normal(heads, 3, seed=seed + 4) / 2,
        normal(heads, 8, 10, seed=seed + 5),
        normal(*place, seed=seed + 6),
    ]


def fast(prefix: int = 0) -> Callable[..., tuple[Tensor, Tensor]]:
    def features(
        query: Tensor, key: Tensor, xi: Tensor, real: Tensor, imag: Tensor, rows: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        position = place[..., prefix:, :]
        return flt_features(query, key, FourierSamples(xi, real, imag), rows, position, prefix=prefix)

    return features


def slow(prefix: int = 0) -> Callable[..., tuple[Tensor, Tensor]]:
    def features(
        query: Tensor, key: Tensor, xi: Tensor, real: Tensor, imag: Tensor, rows: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        parts = fourier_features(FourierSamples(xi, real, imag), place[..., prefix:, :])
        phi, psi = (torch.nn.functional.pad(x, (0, 0, prefix, 0)) for x in parts)
        return (
            positive_features(extend(query, phi), rows, rescale=True),
            positive_features(extend(key, psi), rows),
        )

    return features


def with_gradients(function: Callable[..., tuple[Tensor, Tensor]], arguments: list[Tensor]) -> list[Tensor]:
    """Both features, and gradients of a projection of them in which a query's factor cancels."""
    leaves = [x.detach().clone().requires_grad_() for x in arguments]
    query, key = function(*leaves)
    shares = query / query.sum(dim=-1, keepdim=True)
    loss = (shares * normal(*query.shape, seed=7).to(query)).sum()
    loss = loss + (key * normal(*key.shape, seed=8).to(key)).sum()
    return [query.detach(), key.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("rows", [False, True])
def test_features_of_the_extension(dtype: torch.dtype, prefix: int, rows: bool) -> None:
    arguments = inputs(rows=rows)
    expected = with_gradients(slow(prefix), arguments)
    actual = with_gradients(fast(prefix), [x.to(dtype) for x in arguments])
    assert_near(actual, expected, TOLERANCE[dtype])


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    length=st.integers(1, 9),
    dimension=st.integers(1, 3),
    rows=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_fresh_inputs(batch: int, heads: int, length: int, dimension: int, rows: bool, seed: int) -> None:
    arguments = inputs(length, batch=batch, heads=heads, dimension=dimension, rows=rows, seed=seed)
    assert_near(with_gradients(fast(), arguments), with_gradients(slow(), arguments), 1e-10)


@pytest.mark.parametrize("rescale", [False, True])
def test_content_alone(rescale: bool) -> None:
    content, rows, offset = normal(2, 3, 7, 4, seed=0), normal(8, 4, seed=1), normal(3, 7, 8, seed=2)

    def both(features: Tensor) -> Tensor:
        return features / features.sum(dim=-1, keepdim=True) if rescale else features

    leaves = [x.requires_grad_() for x in (content, rows, offset)]
    actual = both(content_features(content, rows, offset=offset, rescale=rescale))
    expected = both(positive_features(content / 4**0.25, rows, offset=offset, rescale=rescale))
    torch.testing.assert_close(actual, expected)
    direction = normal(*actual.shape, seed=3)
    gradients = [torch.autograd.grad((x * direction).sum(), leaves) for x in (actual, expected)]
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right)


def test_second_derivatives() -> None:
    content, rows, offset = (
        x.requires_grad_() for x in (normal(2, 3, 2, seed=0), normal(3, 2, seed=1), normal(3, 3, seed=2))
    )
    torch.autograd.gradgradcheck(lambda x, w, b: content_features(x, w, offset=b), (content, rows, offset))


def test_a_map_over_tasks() -> None:
    content, rows = normal(4, 1, 2, 5, 3, seed=0), normal(4, 6, 3, seed=1)
    mapped = torch.func.vmap(content_features)(content, rows)
    for index in range(4):
        torch.testing.assert_close(mapped[index], content_features(content[index], rows[index]))


def test_gradients_stay_exact_within_autocast() -> None:
    content, rows = normal(1, 2, 5, 4, seed=0).float().requires_grad_(), normal(8, 4, seed=1).float()
    (expected,) = torch.autograd.grad(content_features(content, rows).sum(), content)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (inside,) = torch.autograd.grad(content_features(content, rows).sum(), content)
    assert torch.equal(inside, expected)


def test_bad_input_is_named() -> None:
    query, key, xi, real, imag, rows, place = inputs()
    samples = FourierSamples(xi, real, imag)
    with pytest.raises(ValueError, match=r"x and projection disagree on E \(axis -1\): 10, 9"):
        flt_features(query, key, samples, rows[..., :9], place)
    with pytest.raises(ValueError, match=r"x and projection disagree on E \(axis -1\): 4, 10"):
        content_features(query, rows)
