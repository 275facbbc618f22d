import io
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernattn import causal_linear_attention, kernel_attention, linear_attention, linear_attention_step
from tests.kernattn.comparing import assert_near, with_gradients

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs(
    *, batch: int = 2, heads: int = 3, length: int = 40, features: int = 8, width: int = 5, seed: int = 0
) -> Inputs:
    """Positive query and key features, values and decay rates."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(batch, heads, length, size, generator=generator, dtype=torch.float64)
        for size in (features, features, width)
    )
    rate = torch.rand(heads, generator=generator, dtype=torch.float64) / 4
    return query.exp(), key.exp(), value, rate


def stream(query: Tensor, key: Tensor, value: Tensor, rate: Tensor) -> Tensor:
    state = value.new_zeros(*value.shape[:2], key.shape[-1], value.shape[-1] + 1)
    outputs = []
    for t in range(value.shape[-2]):
        token = (x[..., t, :] for x in (query, key, value))
        output, state = linear_attention_step(state, *token, decay_rate=rate)
        outputs.append(output)
    return torch.stack(outputs, dim=-2)


def in_chunks(chunk: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    return lambda query, key, value, rate: causal_linear_attention(
        query, key, value, decay_rate=rate, chunk=chunk
    )[0]


def dense(query: Tensor, key: Tensor, value: Tensor, rate: Tensor) -> Tensor:
    return kernel_attention(query @ key.mT, value, decay_rate=rate, causal=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "form", [in_chunks(1), in_chunks(7), in_chunks(40), stream], ids=["1", "7", "L", "stream"]
)
def test_causal_forms_are_the_dense_form(form: Callable[..., Tensor], dtype: torch.dtype) -> None:
    arguments = inputs()
    actual = with_gradients(form, *(x.to(dtype) for x in arguments))
    assert_near(actual, with_gradients(dense, *arguments), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_bidirectional_form_is_the_dense_form(dtype: torch.dtype) -> None:
    arguments = inputs()[:3]
    actual = with_gradients(linear_attention, *(x.to(dtype) for x in arguments))
    expected = with_gradients(lambda q, k, v: kernel_attention(q @ k.mT, v), *arguments)
    assert_near(actual, expected, TOLERANCE[dtype])


def test_a_stream_of_400_steps_is_the_batch() -> None:
    arguments = inputs(length=400)
    assert (stream(*arguments) - dense(*arguments)).abs().max() <= 1e-12
    single = (x.float() for x in arguments)
    assert (stream(*single) - dense(*arguments)).abs().max() <= 1e-5


def test_a_fast_decay_does_not_overflow_in_a_long_chunk() -> None:
    query, key, value, rate = inputs()
    fast = (query, key, value, 20 + rate)
    actual = with_gradients(in_chunks(64), *(x.float() for x in fast))
    assert_near(actual, with_gradients(in_chunks(1), *fast), 1e-5)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    length=st.integers(0, 20),
    features=st.integers(1, 5),
    width=st.integers(0, 4),
    chunk=st.integers(1, 25),
    seed=st.integers(0, 2**31),
)
def test_any_shape(
    batch: int, heads: int, length: int, features: int, width: int, chunk: int, seed: int
) -> None:
    arguments = inputs(batch=batch, heads=heads, length=length, features=features, width=width, seed=seed)
    torch.testing.assert_close(in_chunks(chunk)(*arguments), dense(*arguments), rtol=1e-10, atol=1e-10)
    query, key, value, _ = arguments
    torch.testing.assert_close(
        linear_attention(query, key, value), kernel_attention(query @ key.mT, value), rtol=1e-10, atol=1e-10
    )


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 40), chunk=st.integers(1, 41))
def test_a_state_goes_on_where_it_stopped(cut: int, chunk: int) -> None:
    query, key, value, rate = inputs()
    before, state = causal_linear_attention(
        query[:, :, :cut], key[:, :, :cut], value[:, :, :cut], decay_rate=rate, chunk=chunk
    )
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    after, _ = causal_linear_attention(
        query[:, :, cut:],
        key[:, :, cut:],
        value[:, :, cut:],
        decay_rate=rate,
        chunk=chunk,
        state=torch.load(buffer),
    )
    expected = dense(query, key, value, rate)
    assert (torch.cat([before, after], dim=-2) - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_future_changes_nothing(chunk: int) -> None:
    query, key, value, rate = (x.float() for x in inputs())
    before = in_chunks(chunk)(query, key, value, rate)
    for changed in (query, key, value):
        changed[:, :, 25] *= 100
    after = in_chunks(chunk)(query, key, value, rate)
    assert torch.equal(before[:, :, :25], after[:, :, :25])
    assert not torch.equal(before[:, :, 25], after[:, :, 25])


@pytest.mark.parametrize("causal", [False, True])
def test_other_rows_of_the_batch_change_nothing(causal: bool) -> None:
    query, key, value, rate = (x.float() for x in inputs())

    def attend() -> Tensor:
        return in_chunks(7)(query, key, value, rate) if causal else linear_attention(query, key, value)

    before = attend()
    for changed in (query, key, value):
        changed[1] *= 1e3
    assert torch.equal(before[0], attend()[0])


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_as_if_it_were_not_there(causal: bool) -> None:
    query, key, value, _ = inputs()
    keep = torch.rand(2, 1, 40, generator=torch.Generator().manual_seed(2)) < 0.7
    keep[1] = False

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if causal:
            return causal_linear_attention(query, key, value, key_mask=keep, chunk=7)[0]
        return linear_attention(query, key, value, key_mask=keep)

    def matrix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = (query @ key.mT).masked_fill(~keep[..., None, :], 0.0)
        return kernel_attention(weights, value, causal=causal, eps=1e-300)

    assert_near(with_gradients(attend, query, key, value), with_gradients(matrix, query, key, value), 1e-12)
    before = attend(query, key, value)
    assert torch.equal(before[1], torch.zeros_like(before[1]))
    key[0, :, ~keep[0, 0]] = torch.inf
    value[0, :, ~keep[0, 0]] = torch.nan
    assert torch.equal(attend(query, key, value), before)


def test_gradcheck() -> None:
    query, key, value, rate = (
        x.requires_grad_() for x in inputs(batch=1, heads=2, length=5, features=3, width=2)
    )
    state = torch.rand(1, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    state.requires_grad_()
    torch.autograd.gradcheck(linear_attention, (query, key, value))
    torch.autograd.gradcheck(
        lambda q, k, v, r, s: causal_linear_attention(q, k, v, decay_rate=r, chunk=2, state=s),
        (query, key, value, rate, state),
    )
    token = (x.detach()[:, :, 0].clone().requires_grad_() for x in (query, key, value))
    torch.autograd.gradcheck(
        lambda s, q, k, v, r: linear_attention_step(s, q, k, v, decay_rate=r), (state, *token, rate)
    )


def test_half_precision_inputs_have_float32_states() -> None:
    query, key, value, rate = (x.bfloat16() for x in inputs())
    exact = [x.float() for x in (query, key, value, rate)]
    output, state = causal_linear_attention(query, key, value, decay_rate=rate)
    expected, expected_state = causal_linear_attention(*exact[:3], decay_rate=exact[3])
    assert output.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert torch.equal(output, expected.bfloat16())
    assert torch.equal(state, expected_state)
    output, state = linear_attention_step(
        state, query[:, :, 0], key[:, :, 0], value[:, :, 0], decay_rate=rate
    )
    assert output.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert linear_attention(query, key, value).dtype == torch.bfloat16


def test_a_wider_state_keeps_its_dtype() -> None:
    query, key, value, rate = (x.float() for x in inputs())
    state = torch.ones(2, 3, 8, 6, dtype=torch.float64)
    output, after = causal_linear_attention(query, key, value, decay_rate=rate, state=state)
    single, _ = causal_linear_attention(query, key, value, decay_rate=rate, state=state.float())
    assert output.dtype == torch.float32
    assert after.dtype == torch.float64
    torch.testing.assert_close(output, single, rtol=0, atol=1e-5)


@pytest.mark.parametrize("beta", [0.9, 0.999])
def test_constant_keys_and_a_decay_are_the_bias_corrected_moments_of_adam(beta: float) -> None:
    gradient = torch.randn(300, 1, 1, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    values = torch.cat([gradient, gradient.square()], dim=-1)
    constant = torch.full((1, 1, 3), 0.7, dtype=torch.float64)
    rate = -torch.tensor([beta], dtype=torch.float64).log()
    state = torch.zeros(1, 1, 3, 13, dtype=torch.float64)
    moments = torch.zeros(12, dtype=torch.float64)
    for step, value in enumerate(values, start=1):
        output, state = linear_attention_step(state, constant, constant, value, decay_rate=rate)
        moments = beta * moments + (1 - beta) * value[0, 0]
        torch.testing.assert_close(output[0, 0], moments / (1 - beta**step), rtol=1e-12, atol=1e-12)


def test_bad_input_is_named() -> None:
    query, key, value, rate = inputs()
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        causal_linear_attention(query, key, value, chunk=0)
    with pytest.raises(ValueError, match=r"key_features and value disagree on L \(axis -2\): 39, 40"):
        linear_attention(query, key[:, :, :39], value)
    with pytest.raises(ValueError, match=r"query_features and key_features disagree on L"):
        causal_linear_attention(query[:, :, :39], key, value)
    with pytest.raises(ValueError, match=r"query_features and key_features disagree on m \(axis -1\): 7, 8"):
        linear_attention(query[..., :7], key, value)
    with pytest.raises(ValueError, match=r"value must be real floating point, got torch.int64"):
        linear_attention(query, key, value.long())
    with pytest.raises(
        ValueError, match=r"decay_rate must broadcast to the leading axes \[2, 3\], got \[2\]"
    ):
        causal_linear_attention(query, key, value, decay_rate=rate[:2])
    with pytest.raises(ValueError, match=r"state must be \[..., m, V\] = \[2, 3, 8, 6\], got \[2, 3, 8, 5\]"):
        causal_linear_attention(query, key, value, state=torch.zeros(2, 3, 8, 5))
    with pytest.raises(ValueError, match=r"value must be \[..., L, .\], got shape \[5\]"):
        linear_attention(query, key, value[0, 0, 0])
    with pytest.raises(ValueError, match=r"key_mask must be boolean, .* got torch.float32"):
        linear_attention(query, key, value, key_mask=torch.ones(40))
    with pytest.raises(ValueError, match=r"key_mask must broadcast to \[..., L\] = \[2, 3, 40\], got \[39\]"):
        linear_attention(query, key, value, key_mask=torch.ones(39, dtype=torch.bool))
    token = [x[:, :, 0] for x in (query, key, value)]
    with pytest.raises(ValueError, match=r"disagree on m \(axis -1\): 8, 8, 4"):
        linear_attention_step(torch.zeros(2, 3, 4, 6), *token)
    with pytest.raises(ValueError, match=r"state must be \[..., m, V \+ 1\], got \[8\]"):
        linear_attention_step(torch.zeros(8), *token)
    with pytest.raises(ValueError, match=r"with V = 5, got \[2, 3, 8, 5\]"):
        linear_attention_step(torch.zeros(2, 3, 8, 5), *token)
