import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernattn import (
    causal_skyformer_attention,
    draw_landmarks,
    gaussian_attention,
    gaussian_kernel,
    nystrom_features,
    skyformer_attention,
    skyformer_step,
    stable_inverse,
)
from tests.kernattn.comparing import assert_near, with_gradients

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(length: int = 40, *, batch: int = 2, width: int = 6, seed: int = 0) -> list[Tensor]:
    sizes = (width, width, 5)
    return [normal(batch, 3, length, size, seed=seed + index) for index, size in enumerate(sizes)]


def order(length: int, seed: int = 0) -> Tensor:
    return draw_landmarks(2 * length, generator=torch.Generator().manual_seed(seed))


def landmarks(count: int = 7, width: int = 6) -> Tensor:
    return normal(3, count, width, seed=9) / 2


def in_chunks(*x: Tensor, chunk: int = 7, **options: Tensor) -> tuple[Tensor, Tensor]:
    query, key, value, fixed = x
    return causal_skyformer_attention(
        query, key, value, landmarks=fixed, decay_rate=torch.tensor([0.0, 0.1, 0.3]), chunk=chunk, **options
    )


def stream(*x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    query, key, value, fixed = x
    if state is None:
        state = value.new_zeros(value.shape[0], 3, fixed.shape[-2], value.shape[-1])
    outputs = []
    for t in range(value.shape[-2]):
        output, state = skyformer_step(
            state,
            *(z[:, :, t] for z in (query, key, value)),
            landmarks=fixed,
            decay_rate=torch.tensor([0.0, 0.1, 0.3]),
        )
        outputs.append(output)
    return torch.stack(outputs, dim=-2), state


def dense(query: Tensor, key: Tensor, value: Tensor, fixed: Tensor) -> Tensor:
    """The L x L matrix K(Q, Z) (K(Z, Z) + ridge)^-1 K(Z, K), with the decay, times the values."""
    query, key = (x / math.pow(x.shape[-1], 0.25) for x in (query, key))
    middle = gaussian_kernel(fixed, fixed) + 1e-3 * torch.eye(fixed.shape[-2], dtype=fixed.dtype)
    weights = gaussian_kernel(query, fixed) @ torch.linalg.solve(middle, gaussian_kernel(fixed, key))
    index = torch.arange(query.shape[-2])
    rate = torch.tensor([0.0, 0.1, 0.3]).double()[:, None, None]
    return (weights * torch.exp(-rate * (index[:, None] - index).clamp(min=0))).tril() @ value


def test_definition() -> None:
    query, key, value = inputs(5)
    output = gaussian_attention(query, key, value)
    for i in range(5):
        weights = torch.exp(
            -(query[0, 1, i] - key[0, 1]).square().sum(dim=-1) / (2 * math.sqrt(query.shape[-1]))
        )
        torch.testing.assert_close(output[0, 1, i], weights @ value[0, 1])


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 12), width=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_all_tokens_as_landmarks_without_a_ridge_are_exact(length: int, width: int, seed: int) -> None:
    query, key, value = inputs(length, width=width, seed=seed)
    approximate = skyformer_attention(
        query, key, value, order=order(length), count=2 * length, ridge=1e-10, iterations=80
    )
    exact = gaussian_attention(query, key, value)
    assert (approximate - exact).abs().max() <= 1e-4 * max(1.0, float(exact.abs().max()))


def test_more_landmarks_come_closer() -> None:
    query, key, value = inputs(40)
    exact = gaussian_attention(query, key, value)
    errors = []
    for count in (5, 20, 80):
        output = skyformer_attention(
            query, key, value, order=order(40), count=count, ridge=1e-6, iterations=40
        )
        errors.append(float((output - exact).square().mean().sqrt()))
    assert errors[2] < errors[1] / 10 < errors[0] / 10


def test_what_the_approximation_leaves_is_positive_semidefinite() -> None:
    points = normal(3, 30, 4, seed=3)
    full = gaussian_kernel(points, points)
    features = nystrom_features(points, points[:, :8], ridge=1e-6)
    left = full - features @ features.mT
    assert torch.linalg.eigvalsh(left).min() > -1e-8
    assert torch.linalg.eigvalsh(left).max() > 1e-3


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_iteration_inverts(dtype: torch.dtype) -> None:
    points = normal(4, 12, 8, seed=4).to(dtype)
    matrix = gaussian_kernel(points, points)
    raised = matrix + 0.1 * torch.eye(12, dtype=dtype)
    residual = raised @ stable_inverse(matrix, ridge=0.1) - torch.eye(12, dtype=dtype)
    assert residual.abs().max() < 1e-4


def test_each_matrix_has_its_own_scale() -> None:
    points = normal(3, 12, 4, seed=5)
    points[1] /= 100
    matrix = gaussian_kernel(points, points)
    assert torch.equal(stable_inverse(matrix)[0], stable_inverse(matrix[:1])[0])


def test_bidirectional_form_is_its_dense_matrix_with_gradients() -> None:
    query, key, value = inputs(10)
    tokens = order(10)

    def matrix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key = (x / math.pow(x.shape[-1], 0.25) for x in (query, key))
        chosen = torch.cat([query, key], dim=-2)[..., tokens[:6], :]
        middle = gaussian_kernel(chosen, chosen) + 0.1 * torch.eye(6, dtype=query.dtype)
        return (
            gaussian_kernel(query, chosen) @ torch.linalg.solve(middle, gaussian_kernel(chosen, key)) @ value
        )

    def fast(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return skyformer_attention(query, key, value, order=tokens, count=6, ridge=0.1, iterations=12)

    assert_near(with_gradients(fast, query, key, value), with_gradients(matrix, query, key, value), 1e-10)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("chunk", [1, 7, 40, 0], ids=["1", "7", "L", "stream"])
def test_causal_forms_are_their_dense_matrix(chunk: int, dtype: torch.dtype) -> None:
    arguments = [*inputs(), landmarks()]

    def form(*x: Tensor) -> Tensor:
        return in_chunks(*x, chunk=chunk)[0] if chunk else stream(*x)[0]

    actual = with_gradients(form, *(x.to(dtype) for x in arguments))
    tolerance = 1e-11 if dtype == torch.float64 else 1e-3
    assert_near(actual, with_gradients(dense, *arguments), tolerance)


@pytest.mark.parametrize("cut", [1, 23])
def test_chunks_and_stream_share_a_state_that_can_be_saved(cut: int) -> None:
    query, key, value = inputs()
    fixed = landmarks()
    head, tail = ([x[:, :, part] for x in (query, key, value)] for part in (slice(cut), slice(cut, None)))
    _, state = in_chunks(*head, fixed)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    state = torch.load(buffer)
    expected = dense(query, key, value, fixed)[:, :, cut:]
    for output in (stream(*tail, fixed, state=state)[0], in_chunks(*tail, fixed, state=state)[0]):
        assert (output - expected).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max()))


def test_the_future_and_other_rows_change_nothing() -> None:
    query, key, value = (x.float() for x in inputs())
    fixed = landmarks().float()

    def causal() -> Tensor:
        return in_chunks(query, key, value, fixed)[0]

    def full() -> Tensor:
        return skyformer_attention(query, key, value, order=order(40), count=8)

    before, whole = causal(), full()
    for x in (query, key, value):
        x[1] *= 3
    assert torch.equal(full()[0], whole[0])
    for x in (query, key, value):
        x[:, :, 25] += 1
    assert torch.equal(causal()[0, :, :25], before[0, :, :25])
    assert not torch.equal(causal()[0, :, 25], before[0, :, 25])


@pytest.mark.parametrize("count", [4, 30])
def test_padding_is_as_if_it_were_not_there(count: int) -> None:
    query, key, value = inputs(20)
    keep = torch.ones(2, 20, dtype=torch.bool)
    keep[1, 12:] = False
    tokens = order(20)
    padded = skyformer_attention(
        query, key, value, order=tokens, count=count, query_mask=keep, key_mask=keep, iterations=40
    )
    short_order = tokens[keep[1].repeat(2)[tokens]]
    short_order = torch.where(short_order >= 20, short_order - 8, short_order)
    short = skyformer_attention(
        *(x[1:, :, :12] for x in (query, key, value)),
        order=short_order,
        count=min(count, 24),
        iterations=40,
    )
    torch.testing.assert_close(padded[1:, :, :12], short, rtol=1e-6, atol=1e-6)
    whole = skyformer_attention(query, key, value, order=tokens, count=count, iterations=40)
    torch.testing.assert_close(padded[0], whole[0], rtol=1e-9, atol=1e-9)
    for x in (query, key, value):
        x[1, :, 12:] = torch.nan
    again = skyformer_attention(
        query, key, value, order=tokens, count=count, query_mask=keep, key_mask=keep, iterations=40
    )
    assert torch.equal(again[1, :, :12], padded[1, :, :12])


def test_rows_of_padding_alone_read_nothing() -> None:
    query, key, value = inputs(6)
    keep = torch.zeros(2, 6, dtype=torch.bool)
    output = skyformer_attention(query, key, value, order=order(6), count=3, query_mask=keep, key_mask=keep)
    assert torch.equal(output, torch.zeros_like(output))
    output, _ = in_chunks(query, key, value, landmarks(), key_mask=keep)
    assert torch.equal(output, torch.zeros_like(output))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_long_queries_and_keys_have_finite_gradients(dtype: torch.dtype) -> None:
    query, key, value = inputs()
    query, key = (30 * x / x.norm(dim=-1, keepdim=True) for x in (query, key))
    arguments = [x.to(dtype) for x in (query, key, value)]
    fixed = landmarks().float()
    for form in (
        lambda *x: skyformer_attention(*x, order=order(40), count=8),
        lambda *x: in_chunks(*x, fixed)[0],
    ):
        assert all(x.isfinite().all() for x in with_gradients(form, *arguments))


def test_gradcheck() -> None:
    arguments = [x.requires_grad_() for x in (*inputs(4, batch=1), landmarks(3))]
    torch.autograd.gradcheck(lambda *x: in_chunks(*x, chunk=3), arguments, fast_mode=True)
    torch.autograd.gradcheck(
        lambda *x: skyformer_attention(*x, order=order(4), count=3), arguments[:3], fast_mode=True
    )


def test_half_precision_inputs_have_float32_states() -> None:
    arguments = [x.bfloat16() for x in inputs()]
    fixed = landmarks().float()
    output, state = in_chunks(*arguments, fixed)
    expected, _ = in_chunks(*(x.float() for x in arguments), fixed)
    assert output.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert torch.equal(output, expected.bfloat16())
    assert skyformer_attention(*arguments, order=order(40), count=4).dtype == torch.bfloat16


@pytest.mark.parametrize("length", [0, 1])
def test_short_sequences(length: int) -> None:
    query, key, value = inputs(length)
    output = skyformer_attention(query, key, value, order=order(length), count=1, iterations=40)
    assert output.shape == value.shape
    assert output.isfinite().all()
    assert in_chunks(query, key, value, landmarks())[0].shape == value.shape


def test_landmarks_are_repeatable() -> None:
    assert torch.equal(order(9, seed=3), order(9, seed=3))
    assert torch.equal(order(9).sort().values, torch.arange(18))


def test_bad_input_is_named() -> None:
    query, key, value = inputs()
    with pytest.raises(ValueError, match=r"order must be \[L \+ L'\] = \[80\], got \[40\]"):
        skyformer_attention(query, key, value, order=order(20), count=3)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        skyformer_attention(query, key, value, order=order(40), count=0)
    with pytest.raises(ValueError, match="ridge must be positive, got 0"):
        skyformer_attention(query, key, value, order=order(40), count=3, ridge=0)
    with pytest.raises(ValueError, match="ridge must be positive, got -1"):
        nystrom_features(query, landmarks(), ridge=-1)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        stable_inverse(torch.eye(3), iterations=0)
    with pytest.raises(ValueError, match=r"matrix must be \[..., s, s\], got \[2, 3\]"):
        stable_inverse(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"x and landmarks disagree on D \(axis -1\): 6, 5"):
        in_chunks(query, key, value, landmarks(width=5))
    with pytest.raises(ValueError, match=r"landmarks has 3 heads \(axis 0\) and the tokens 2 \(axis 1\)"):
        in_chunks(query[:, :2], key[:, :2], value[:, :2], landmarks())
    with pytest.raises(ValueError, match=r"key_mask must be \[B, L'\] = \[2, 40\], got \[2, 39\]"):
        in_chunks(query, key, value, landmarks(), key_mask=torch.ones(2, 39, dtype=torch.bool))
    with pytest.raises(ValueError, match="tokens must not be negative, got -1"):
        draw_landmarks(-1)
