"""Properties common to the attentions that are a pair of feature maps: Performer and SchoenbAt."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernattn import (
    causal_performer_attention,
    causal_schoenbat_attention,
    centre_and_scale,
    draw_maclaurin,
    gaussian_projection,
    maclaurin_features,
    maclaurin_kernel,
    performer_attention,
    performer_step,
    positive_features,
    schoenbat_attention,
    schoenbat_step,
    trigonometric_features,
)
from tests.kernattn.comparing import assert_near, with_gradients

HEADS, WIDTH, VALUES = 3, 6, 5
RATE = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Attention:
    """One attention in its three forms, and the features and least weights that it is made of."""

    full: Callable[..., Tensor]
    causal: Callable[..., tuple[Tensor, Tensor]]
    step: Callable[..., tuple[Tensor, Tensor]]
    options: dict[str, Any]
    features: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    rows: int


def performer(kind: str, *, features: int = 16, **form: bool) -> Attention:
    projection = gaussian_projection(
        features, WIDTH, shape=(HEADS,), generator=generator(7), dtype=torch.float64, **form
    )

    def both(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key = (x / WIDTH**0.25 for x in (query, key))
        if kind == "positive":
            left, right = (positive_features(x, projection) for x in (query, key))
            return left, right, right.new_zeros(right.shape[:-1])
        left, right = (trigonometric_features(x, projection) for x in (query, key))
        left = left / left.norm(dim=-1, keepdim=True)
        return left, right, 1e-2 * right.norm(dim=-1)

    options = {"projection": projection, "kind": kind}
    rows = features if kind == "positive" else 2 * features + 1
    return Attention(performer_attention, causal_performer_attention, performer_step, options, both, rows)


def schoenbat(kernel: str) -> Attention:
    samples = draw_maclaurin(
        24, WIDTH, kernel=kernel, shape=(HEADS,), generator=generator(8), dtype=torch.float64
    )

    def both(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right = (maclaurin_features(centre_and_scale(x, radius=0.5), samples) for x in (query, key))
        least = maclaurin_kernel(kernel, 0.5).function(torch.tensor(-0.25, dtype=right.dtype))
        return left, right, least.expand(right.shape[:-1])

    options = {"samples": samples, "kernel": kernel, "radius": 0.5}
    return Attention(schoenbat_attention, causal_schoenbat_attention, schoenbat_step, options, both, 25)


CASES = {
    "positive": performer("positive"),
    "hyperbolic": performer("positive", hyperbolic=True),
    "independent": performer("positive", orthogonal=False),
    "trigonometric": performer("trigonometric"),
    **{
        f"schoenbat-{kernel}": schoenbat(kernel)
        for kernel in ("exp", "inverse", "logarithm", "hyperbolic", "root")
    },
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def inputs(length: int = 40, *, batch: int = 2, seed: int = 0) -> list[Tensor]:
    return [
        torch.randn(batch, HEADS, length, size, generator=generator(seed + size + k), dtype=torch.float64)
        for k, size in enumerate((WIDTH, WIDTH, VALUES))
    ]


def full(case: Attention, **options: Any) -> Callable[..., Tensor]:
    return lambda *x: case.full(*x, **case.options, **options)


def in_chunks(case: Attention, chunk: int = 7, **options: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda *x: case.causal(*x, **case.options, decay_rate=RATE, chunk=chunk, **options)


def stream(case: Attention, state: Tensor | None = None) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(torch.float32, value.dtype)
        last = state
        if last is None:
            last = torch.zeros(*value.shape[:2], case.rows, value.shape[-1] + 1, dtype=dtype)
        outputs = []
        for t in range(value.shape[-2]):
            token = (x[:, :, t] for x in (query, key, value))
            output, last = case.step(last, *token, **case.options, decay_rate=RATE)
            outputs.append(output)
        return torch.stack(outputs, dim=-2), last

    return run


def dense(case: Attention, *, causal: bool) -> Callable[..., Tensor]:
    """The L x L matrix of the features, with the guard, as the definition says it."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        left, right, least = case.features(query, key)
        weights, floor = left @ right.mT, least[..., None, :].expand(*left.shape[:-1], right.shape[-2])
        if causal:
            index = torch.arange(value.shape[-2])
            mask = torch.exp(-RATE[:, None, None] * (index[:, None] - index).clamp(min=0)).tril()
            weights, floor = weights * mask, floor * mask
        below = torch.maximum(weights.sum(dim=-1, keepdim=True), floor.sum(dim=-1, keepdim=True))
        return weights @ value / below

    return attend


@each
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_bidirectional_form_is_the_matrix_of_its_features(case: Attention, dtype: torch.dtype) -> None:
    arguments = inputs()
    actual = with_gradients(full(case), *(x.to(dtype) for x in arguments))
    expected = with_gradients(dense(case, causal=False), *arguments)
    assert_near(actual, expected, 10 * TOLERANCE[dtype])


@each
@pytest.mark.parametrize("chunk", [1, 7, 40, 0], ids=["1", "7", "L", "stream"])
def test_causal_forms_are_the_matrix_of_their_features(case: Attention, chunk: int) -> None:
    arguments = inputs()
    expected = with_gradients(dense(case, causal=True), *arguments)
    form = in_chunks(case, chunk) if chunk else stream(case)
    for dtype, tolerance in TOLERANCE.items():
        actual = with_gradients(lambda *x: form(*x)[0], *(x.to(dtype) for x in arguments))
        assert_near(actual, expected, 100 * tolerance)


@settings(max_examples=25, deadline=None)
@given(
    case=st.sampled_from(list(CASES.values())),
    batch=st.integers(1, 3),
    length=st.integers(0, 12),
    chunk=st.integers(1, 14),
    seed=st.integers(0, 2**31),
)
def test_fresh_inputs(case: Attention, batch: int, length: int, chunk: int, seed: int) -> None:
    arguments = inputs(length, batch=batch, seed=seed)
    for form, causal in ((full(case), False), (lambda *x: in_chunks(case, chunk)(*x)[0], True)):
        actual, expected = form(*arguments), dense(case, causal=causal)(*arguments)
        assert actual.shape == expected.shape == arguments[2].shape
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@each
@pytest.mark.parametrize("cut", [1, 23])
def test_chunks_and_stream_share_a_state_that_can_be_saved(case: Attention, cut: int) -> None:
    arguments = inputs()
    head, tail = ([x[:, :, part] for x in arguments] for part in (slice(cut), slice(cut, None)))
    _, state = in_chunks(case)(*head)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    state = torch.load(buffer)
    expected = dense(case, causal=True)(*arguments)[:, :, cut:]
    for form in (stream(case, state), in_chunks(case, state=state)):
        assert (form(*tail)[0] - expected).abs().max() <= 1e-10


@each
def test_the_future_and_other_rows_change_nothing(case: Attention) -> None:
    arguments = [x.float() for x in inputs()]
    causal, whole = in_chunks(case)(*arguments)[0], full(case)(*arguments)
    for x in arguments:
        x[1] *= 2
    assert torch.equal(full(case)(*arguments)[0], whole[0])
    for x in arguments:
        x[:, :, 25] *= -1
    after = in_chunks(case)(*arguments)[0]
    assert torch.equal(after[0, :, :25], causal[0, :, :25])
    assert not torch.equal(after[0, :, 25], causal[0, :, 25])


@each
def test_padding_is_as_if_it_were_not_there(case: Attention) -> None:
    arguments = inputs(20)
    keep = torch.ones(2, 20, dtype=torch.bool)
    keep[1, 12:] = False
    short = [x[1:, :, :12] for x in arguments]
    for x in arguments:
        x[1, :, 12:] *= 2
    bidirectional = full(case, key_mask=keep)(*arguments)
    torch.testing.assert_close(bidirectional[1:, :, :12], full(case)(*short))
    torch.testing.assert_close(bidirectional[:1], full(case)(*(x[:1] for x in arguments)))
    causal = in_chunks(case, key_mask=keep)(*arguments)[0]
    torch.testing.assert_close(causal[1:, :, :12], in_chunks(case)(*short)[0])


@each
def test_rows_of_padding_alone_read_nothing(case: Attention) -> None:
    arguments = inputs(6)
    nothing = torch.zeros(2, 6, dtype=torch.bool)
    for form in (full(case, key_mask=nothing), lambda *x: in_chunks(case, key_mask=nothing)(*x)[0]):
        output, *gradients = with_gradients(form, *arguments)
        assert torch.equal(output, torch.zeros_like(output))
        assert all(x.isfinite().all() for x in gradients)


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_long_queries_and_keys_have_finite_gradients(case: Attention, dtype: torch.dtype) -> None:
    query, key, value = inputs()
    query, key = (30 * x / x.norm(dim=-1, keepdim=True) for x in (query, key))
    arguments = [x.to(dtype) for x in (query, key, value)]
    for form in (full(case), lambda *x: in_chunks(case)(*x)[0], lambda *x: stream(case)(*x)[0]):
        assert all(x.isfinite().all() for x in with_gradients(form, *arguments))


@each
def test_gradcheck(case: Attention) -> None:
    arguments = [x.requires_grad_() for x in inputs(4, batch=1)]
    for form in (full(case), lambda *x: in_chunks(case, 3)(*x)[0], lambda *x: stream(case)(*x)[0]):
        torch.autograd.gradcheck(form, arguments, fast_mode=True)


@each
def test_half_precision_inputs_have_float32_states_whatever_autocast_says(case: Attention) -> None:
    arguments = [x.bfloat16() for x in inputs()]
    output, state = in_chunks(case)(*arguments)
    expected, _ = in_chunks(case)(*(x.float() for x in arguments))
    assert output.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert torch.equal(output, expected.bfloat16())
    single = [x.float() for x in arguments]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = full(case)(*single)
    assert torch.equal(inside, full(case)(*single))


@each
@pytest.mark.parametrize("length", [0, 1])
def test_short_sequences(case: Attention, length: int) -> None:
    arguments = inputs(length)
    outputs = (full(case)(*arguments), in_chunks(case)(*arguments)[0])
    for output in outputs:
        assert output.shape == arguments[2].shape
        assert output.isfinite().all()


@pytest.mark.parametrize("name", ["trigonometric", "schoenbat-exp", "schoenbat-root"])
def test_negative_estimates_of_the_denominator_are_guarded(name: str) -> None:
    case, found = CASES[name], 0
    for seed in range(40):
        query, key, value = inputs(30, seed=100 * seed)
        query, key = (x * (2.5 if name == "trigonometric" else 1) for x in (query, key))
        left, right, least = case.features(query, key)
        found += int((left @ right.sum(dim=-2)[..., None] <= least.sum(dim=-1)[..., None, None]).sum())
        output = full(case)(query, key, value)
        bound = (left @ right.mT).abs() @ value.abs() / least.sum(dim=-1)[..., None, None]
        assert (output.abs() <= bound + 1e-9).all()
    if name == "trigonometric":
        assert found > 0


def test_bad_input_is_named() -> None:
    query, key, value = inputs()
    case = CASES["positive"]
    with pytest.raises(ValueError, match="kind must be one of positive, trigonometric, got 'cosine'"):
        performer_attention(query, key, value, **{**case.options, "kind": "cosine"})
    with pytest.raises(ValueError, match=r"key and value disagree on L \(axis 2\): 40, 39"):
        full(case)(query, key, value[:, :, :39])
    with pytest.raises(ValueError, match=r"key_mask must be \[B, L'\] = \[2, 40\], got \[40\]"):
        full(case, key_mask=torch.ones(40, dtype=torch.bool))(query, key, value)
    with pytest.raises(ValueError, match=r"key_mask must be boolean, True where a key takes part"):
        in_chunks(case, key_mask=torch.ones(2, 40))(query, key, value)
    with pytest.raises(ValueError, match=r"projection has 3 heads \(axis 0\) and the tokens 2 \(axis 1\)"):
        full(case)(query[:, :2], key[:, :2], value[:, :2])
    with pytest.raises(ValueError, match=r"must be on one device, got token on meta, projection on cpu"):
        full(case)(*(x.to("meta") for x in (query, key, value)))
    case = CASES["schoenbat-exp"]
    with pytest.raises(ValueError, match=r"signs has 3 heads \(axis 0\) and the tokens 2 \(axis 1\)"):
        full(case)(query[:, :2], key[:, :2], value[:, :2])
    case = CASES["trigonometric"]
    with pytest.raises(
        ValueError, match=r"state must be \[..., m, V\] = \[2, 3, 33, 6\], got \[2, 3, 16, 6\]"
    ):
        in_chunks(case, state=torch.zeros(2, 3, 16, 6))(query, key, value)
    case = CASES["schoenbat-inverse"]
    with pytest.raises(ValueError, match=r"radius 0.7 is too long for kernel 'inverse': .* 6 radius\^4 < 1"):
        schoenbat_attention(query, key, value, **{**case.options, "radius": 0.7})
    with pytest.raises(ValueError, match=r"kernel must be one of exp, inverse, .*, got 'cosine'"):
        schoenbat_attention(query, key, value, **{**case.options, "kernel": "cosine"})
    with pytest.raises(ValueError, match=r"query must be \[B, H, \.\], got shape"):
        schoenbat_step(torch.zeros(2, 3, 25, 6), query, key, value, **case.options)
