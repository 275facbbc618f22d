import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernattn import (
    PositionTable,
    gaussian_projection,
    grid_lags,
    kernel_attention,
    nprf_attention,
    positive_features,
    softmax_attention,
    toeplitz_matrix,
    toeplitz_product,
)
from kernattn.toeplitz import DIRECT_LENGTH

HEADS, FEATURES, DEPTH, WIDTH = 2, 7, 4, 3
METHODS = ("fft", "direct")
shapes = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)
seeds = st.integers(0, 10**6)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def case(shape: tuple[int, ...], *, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    length = math.prod(shape)
    return {
        "query": normal(batch, HEADS, length, DEPTH, seed=seed),
        "key": normal(batch, HEADS, length, DEPTH, seed=seed + 1),
        "value": normal(batch, HEADS, length, WIDTH, seed=seed + 2),
        "log_bias": normal(HEADS, *(2 * n - 1 for n in shape), seed=seed + 3),
        "projection": gaussian_projection(
            FEATURES, DEPTH, shape=(HEADS,), generator=generator(seed + 4), dtype=torch.float64
        ),
    }


def attend(inputs: dict[str, Tensor], **options: Any) -> Tensor:
    rest = {name: inputs[name] for name in ("log_bias", "projection")}
    return nprf_attention(inputs["query"], inputs["key"], inputs["value"], **rest, **options)


def dense(inputs: dict[str, Tensor], *, causal: bool = False, key_mask: Tensor | None = None) -> Tensor:
    """The definition, with a matrix filled pair by pair."""
    shape = [(size + 1) // 2 for size in inputs["log_bias"].shape[1:]]
    tokens = list(itertools.product(*map(range, shape)))
    length = len(tokens)
    bias = torch.zeros(HEADS, length, length, dtype=torch.float64)
    for (i, here), (j, there) in itertools.product(enumerate(tokens), enumerate(tokens)):
        lag = tuple(a - b + n - 1 for a, b, n in zip(here, there, shape, strict=True))
        bias[:, i, j] = inputs["log_bias"][(slice(None), *lag)]
    query, key = (
        positive_features(x / x.norm(dim=-1, keepdim=True), inputs["projection"])
        for x in (inputs["query"], inputs["key"])
    )
    weights = query @ key.mT * bias.exp()
    if key_mask is not None:
        weights = weights * key_mask[:, None, None]
    return kernel_attention(weights, inputs["value"], causal=causal, eps=1e-300)


@settings(max_examples=25, deadline=None)
@given(shapes, seeds)
def test_products_are_those_of_the_matrix(shape: tuple[int, ...], seed: int) -> None:
    coefficients = normal(2, *(2 * n - 1 for n in shape), seed=seed)
    x = normal(3, 2, *shape, seed=seed + 1)
    matrix = toeplitz_matrix(coefficients, axes=len(shape))
    expected = (matrix @ x.flatten(2)[..., None])[..., 0].view_as(x)
    actual = toeplitz_product(coefficients, x, axes=len(shape))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_the_matrix_has_a_positive_lag_below_its_diagonal() -> None:
    matrix = toeplitz_matrix(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert matrix.tolist() == [[3, 2, 1], [4, 3, 2], [5, 4, 3]]
    assert grid_lags([3])[:, 0].tolist() == [-2, -1, 0, 1, 2]
    assert grid_lags([2, 3]).shape == (3, 5, 2)


def test_an_axis_without_tokens_has_no_lags() -> None:
    lags = grid_lags([2, 0])
    assert lags.shape == (3, 0, 2)
    assert toeplitz_matrix(lags.sum(dim=-1).expand(4, -1, -1), axes=2).shape == (4, 0, 0)


@settings(max_examples=25, deadline=None)
@given(shapes, seeds, st.booleans(), st.booleans(), st.integers(1, 8))
def test_both_methods_are_the_dense_toeplitz_attention(
    shape: tuple[int, ...], seed: int, causal: bool, padded: bool, block: int
) -> None:
    """Also for padding that leaves a query no key, which reads 0."""
    inputs = case(shape, seed=seed)
    mask = torch.rand(2, math.prod(shape), generator=generator(seed)) < 0.6 if padded else None
    expected = dense(inputs, causal=causal, key_mask=mask)
    for method in METHODS:
        actual = attend(inputs, causal=causal, key_mask=mask, method=method, block=block)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_the_dense_attention(method: str, causal: bool) -> None:
    inputs = case((2, 3))

    def gradients(function: Any, **options: Any) -> tuple[Tensor, ...]:
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        output = function(leaves, causal=causal, **options)
        return torch.autograd.grad((output * normal(*output.shape, seed=9)).sum(), list(leaves.values()))

    for actual, expected in zip(gradients(attend, method=method), gradients(dense), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck(method: str) -> None:
    inputs = case((4,), batch=1)
    leaves = [x.requires_grad_() for x in inputs.values()]
    for causal in (False, True):
        torch.autograd.gradcheck(
            lambda *x, causal=causal: attend(
                dict(zip(inputs, x, strict=True)), method=method, causal=causal, block=3
            ),
            leaves,
            fast_mode=True,
        )


@pytest.mark.parametrize("causal", [False, True])
def test_more_features_approach_softmax_attention_of_unit_vectors(causal: bool) -> None:
    """The mask is exact, so only the kernel's error is left, and falls as the root of the features."""
    draws, length = 24, 12
    query, key = (normal(1, 1, length, DEPTH, seed=seed) for seed in (0, 1))
    query, key = (x / x.norm(dim=-1, keepdim=True) for x in (query, key))
    value, bias = normal(1, 1, length, 1, seed=2), normal(1, 2 * length - 1, seed=3)
    exact = softmax_attention(
        query * math.sqrt(DEPTH), key, value, log_mask=toeplitz_matrix(bias), causal=causal
    )
    errors = []
    for features in (64, 256, 1024):
        projection = gaussian_projection(
            features, DEPTH, shape=(draws,), generator=generator(4), dtype=torch.float64
        )
        output = nprf_attention(
            *(x.expand(1, draws, -1, -1) for x in (query, key, value)),
            log_bias=bias.expand(draws, -1),
            projection=projection,
            causal=causal,
        )
        errors.append(float((output - exact).square().mean().sqrt()))
    assert errors[2] < errors[1] / 1.5 < errors[0] / 2.25
    assert errors[2] < 0.05


DECAYS = {"none": 0.0, "slow": 0.05, "fast": 1.0, "abrupt": 30.0}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("visible", [600, 40, 1, 0])
def test_adversarial_decay_and_padding_keep_single_precision_right(
    decay: str, visible: int, causal: bool
) -> None:
    """The transform's rows are near the truth, or 0 where their whole weight is below its rounding."""
    length = 600
    inputs = case((length,), batch=1)
    inputs["log_bias"] = -DECAYS[decay] * grid_lags([length])[:, 0].abs().double().expand(HEADS, -1)
    mask = torch.arange(length)[None] < visible
    single = {name: x.float() for name, x in inputs.items()}
    expected = attend(inputs, causal=causal, key_mask=mask, method="direct")
    direct = attend(single, causal=causal, key_mask=mask, method="direct")
    torch.testing.assert_close(direct.double(), expected, rtol=0, atol=1e-4)
    output = attend(single, causal=causal, key_mask=mask, method="fft").double()
    error = (output - expected).abs().amax(dim=-1)
    lost = (output == 0).all(dim=-1)
    assert (error[~lost] < 0.05).all()
    if visible == 600:
        assert not lost.any()
        assert error.max() < 0.002
    assert lost.all() or visible > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing_whatever_it_holds(method: str, causal: bool) -> None:
    inputs = {name: x.float() for name, x in case((9,)).items()}
    mask = torch.tensor([[True] * 6 + [False] * 3, [False] * 9])
    before = attend(inputs, method=method, causal=causal, key_mask=mask)
    inputs["key"][:, :, 6:] = torch.nan
    inputs["value"][:, :, 6:] = torch.inf
    inputs["key"][1], inputs["value"][1] = torch.nan, torch.nan
    after = attend(inputs, method=method, causal=causal, key_mask=mask)
    assert torch.equal(before, after)
    assert (after[1] == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_other_rows_of_the_batch_change_nothing(method: str) -> None:
    inputs = {name: x.float() for name, x in case((9,)).items()}
    before = attend(inputs, method=method)
    for name in ("query", "key", "value"):
        inputs[name][1] *= 5
    assert torch.equal(before[0], attend(inputs, method=method)[0])


def test_the_future_changes_nothing_beyond_rounding() -> None:
    inputs = case((30,))
    before = [attend(inputs, method=method, causal=True) for method in METHODS]
    for name in ("query", "key", "value"):
        inputs[name][:, :, 20] += 1
    after = [attend(inputs, method=method, causal=True) for method in METHODS]
    torch.testing.assert_close(before[0][:, :, :20], after[0][:, :, :20], rtol=0, atol=1e-12)
    assert torch.equal(before[1][:, :, :20], after[1][:, :, :20])
    assert not torch.equal(before[1][:, :, 20], after[1][:, :, 20])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_extreme_inputs_have_finite_gradients(method: str, dtype: torch.dtype) -> None:
    inputs = case((9,))
    for scale in (0.0, 30.0, 1e15):
        leaves = {name: x.clone() for name, x in inputs.items()}
        for name in ("query", "key"):
            leaves[name] = scale * leaves[name] / leaves[name].norm(dim=-1, keepdim=True)
        for name in ("query", "key", "value"):
            leaves[name] = leaves[name].to(dtype)
        leaves["log_bias"] = (300 * leaves["log_bias"]).float()
        leaves["projection"] = leaves["projection"].float()
        for x in leaves.values():
            x.requires_grad_()
        output = attend(leaves, method=method, causal=True)
        assert output.dtype == dtype
        output.float().square().sum().backward()
        assert output.isfinite().all()
        assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves.values())


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_worked_on_in_float32(method: str) -> None:
    inputs = case((9,))
    half = {
        name: x.bfloat16() if name in ("query", "key", "value") else x.float() for name, x in inputs.items()
    }
    exact = {name: x.float() for name, x in half.items()}
    assert torch.equal(attend(half, method=method), attend(exact, method=method).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attend(exact, method=method), attend(exact, method=method))


def test_auto_is_direct_for_short_sequences_only(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case((9,))
    assert torch.equal(attend(inputs), attend(inputs, method="direct"))
    assert DIRECT_LENGTH == 2048
    monkeypatch.setattr("kernattn.toeplitz.DIRECT_LENGTH", 8)
    assert torch.equal(attend(inputs), attend(inputs, method="fft"))


def test_auto_transforms_where_features_and_columns_are_few() -> None:
    inputs = case((9,))
    few = {**inputs, "value": inputs["value"][..., :1], "projection": inputs["projection"][..., :4, :]}
    assert torch.equal(attend(few), attend(few, method="fft"))
    assert not torch.equal(attend(few), attend(few, method="direct"))


@pytest.mark.parametrize("causal", [False, True])
def test_a_long_sequence_never_holds_its_matrix(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the matrix was built")

    monkeypatch.setattr("kernattn.toeplitz.toeplitz_matrix", refuse)
    length = 1500
    inputs = case((length,), batch=1)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for x in result if isinstance(result, tuple | list) else [result]:
                if isinstance(x, Tensor):
                    largest = max(largest, x.numel())
            return result

    with Watch():
        attend(inputs, causal=causal, block=4)
    assert largest <= HEADS * 4 * (WIDTH + 1) * 4096
    assert largest < length**2


def test_position_functions_give_the_bias() -> None:
    table = PositionTable(normal(HEADS, 5, 5, seed=0))
    inputs = case((3, 4))
    inputs["log_bias"] = table.log_mask(grid_lags([3, 4]))
    assert inputs["log_bias"].shape == (HEADS, 5, 7)
    torch.testing.assert_close(attend(inputs, method="fft"), dense(inputs))


def test_a_lag_can_be_forbidden() -> None:
    inputs = case((6,))
    inputs["log_bias"][:, :5] = -torch.inf
    for method in METHODS:
        torch.testing.assert_close(
            attend(inputs, method=method), dense(inputs, causal=True), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [0, 2])
def test_short_sequences(method: str, batch: int) -> None:
    inputs = case((1,), batch=batch)
    torch.testing.assert_close(attend(inputs, method=method), inputs["value"])
    empty = {name: x[:, :, :0] if x.dim() == 4 else x for name, x in inputs.items()}
    assert attend(empty, method=method).shape == (batch, HEADS, 0, WIDTH)


def test_bad_input_is_named() -> None:
    inputs = case((9,))
    with pytest.raises(ValueError, match=r"log_bias \[2, 15\] is of 8 tokens, .* L = 9 \(axis 2\)"):
        attend({**inputs, "log_bias": inputs["log_bias"][:, :15]})
    with pytest.raises(ValueError, match=r"must have 2 L - 1 entries, an odd number, got \[2, 16\]"):
        attend({**inputs, "log_bias": inputs["log_bias"][:, :16]})
    with pytest.raises(ValueError, match=r"log_bias must be \[H, 2 L_1 - 1, ...\] with H = 2, got \[3, 17\]"):
        attend({**inputs, "log_bias": torch.zeros(3, 17)})
    with pytest.raises(ValueError, match="method must be auto, fft or direct, got 'fast'"):
        attend(inputs, method="fast")
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        attend(inputs, block=0)
    with pytest.raises(ValueError, match=r"key_mask must be \[B, L'\] = \[2, 9\], got \[9\]"):
        attend(inputs, key_mask=torch.ones(9, dtype=torch.bool))
    with pytest.raises(ValueError, match="one device, got query on cpu, log_bias on meta"):
        attend({**inputs, "log_bias": inputs["log_bias"].to("meta")})
    with pytest.raises(ValueError, match=r"x must be \[..., 3\] beside coefficients \[5\], got \[2, 4\]"):
        toeplitz_product(torch.zeros(5), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="with the last 2 of lags"):
        toeplitz_matrix(torch.zeros(5), axes=2)
