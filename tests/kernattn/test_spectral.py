import io
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernattn import (
    ComplexSpectrum,
    SpectralState,
    advance,
    advance_rotating,
    causal_spectral_attention,
    dense_spectral_attention,
    kernel_attention,
    spectral_state,
    spectral_step,
    write_gain,
)
from tests.kernattn.comparing import with_gradients

STEPS = 400
RATES = torch.tensor([0.0, 1e-4, 1e-3, 0.1, 0.7], dtype=torch.float64)
FREQUENCIES = torch.tensor([0.31, 0.0, 0.002, 0.25, -0.4], dtype=torch.float64)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_averages(values: Tensor) -> Tensor:
    """Averages of the past under every damped rotation, complex ``[t, component, stream]``."""
    index = torch.arange(len(values), dtype=torch.float64)
    lag = (index[:, None] - index)[..., None]
    past = lag >= 0
    damping = torch.where(past, torch.exp(-RATES * lag.clamp(min=0)), 0.0)
    mask = torch.polar(damping, 2 * math.pi * FREQUENCIES * lag)
    return torch.einsum("tjc,jn->tcn", mask, values + 0j) / damping.sum(dim=1)[..., None]


def test_gain_is_one_over_the_sum_of_the_weights() -> None:
    for step in (1, 2, 17, 3000):
        weights = torch.exp(-RATES[:, None] * torch.arange(step, dtype=torch.float64))
        torch.testing.assert_close(
            write_gain(RATES, torch.tensor(step)), 1 / weights.sum(dim=-1), rtol=1e-13, atol=0
        )
    assert (write_gain(RATES.float(), torch.tensor(1.0)) == 1).all()
    torch.testing.assert_close(
        write_gain(torch.zeros(1), torch.tensor([1e6, 1e9])), torch.tensor([1e-6, 1e-9]), rtol=1e-6, atol=0
    )


def test_averages_are_the_dense_batch_over_400_steps() -> None:
    values = normal(STEPS, 7, seed=0)
    expected = dense_averages(values)
    still = real = imag = torch.zeros(5, 7, dtype=torch.float64)
    cosine, sine = (2 * math.pi * FREQUENCIES[:, None]).cos(), (2 * math.pi * FREQUENCIES[:, None]).sin()
    plain = dense_averages(values)[:, 1]
    for t, value in enumerate(values):
        gain = write_gain(RATES, torch.tensor(t + 1))[:, None]
        still = advance(still, value, gain)
        real, imag = advance_rotating(real, imag, value, gain, cosine, sine)
        assert (torch.complex(real, imag) - expected[t]).abs().max() <= 1e-12
        assert (still[1] - plain[t].real).abs().max() <= 1e-12


@pytest.mark.parametrize("beta", [0.9, 0.999])
def test_averages_are_the_bias_corrected_moments_of_adam(beta: float) -> None:
    rate = -torch.tensor(beta, dtype=torch.float64).log()
    average = moment = torch.zeros(6, dtype=torch.float64)
    for step, gradient in enumerate(normal(STEPS, 6, seed=1), start=1):
        average = advance(average, gradient, write_gain(rate, torch.tensor(step)))
        moment = beta * moment + (1 - beta) * gradient
        torch.testing.assert_close(average, moment / (1 - beta**step), rtol=1e-12, atol=1e-12)


def test_a_gain_of_zero_leaves_the_state_to_the_bit() -> None:
    real, imag, value = normal(3, 50, seed=2).float()
    zero, one = torch.zeros(()), torch.ones(())
    assert torch.equal(advance(real, value, zero), real)
    turned = advance_rotating(real, imag, value, zero, one, zero)
    assert torch.equal(turned[0], real)
    assert torch.equal(turned[1], imag)


def one_step(
    state: Tensor, value: Tensor, rate: Tensor, frequency: Tensor, step: Tensor
) -> tuple[Tensor, ...]:
    gain = write_gain(rate, step)
    angle = 2 * math.pi * frequency
    return (
        advance(state[0], value, gain),
        *advance_rotating(state[1], state[2], value, gain, angle.cos(), angle.sin()),
    )


def test_steps_work_under_vmap_and_compile() -> None:
    arguments = (
        normal(4, 3, 6, seed=3),
        normal(4, 6, seed=4),
        RATES[:4],
        FREQUENCIES[:4],
        torch.arange(1.0, 5.0),
    )
    rows = [one_step(*(x[row] for x in arguments)) for row in range(4)]
    mapped = torch.func.vmap(one_step)(*arguments)
    compiled = torch.compile(torch.func.vmap(one_step), backend="aot_eager", fullgraph=True)(*arguments)
    for index in range(3):
        expected = torch.stack([row[index] for row in rows])
        torch.testing.assert_close(mapped[index], expected, rtol=0, atol=1e-15)
        torch.testing.assert_close(compiled[index], expected, rtol=0, atol=1e-15)


def test_gradcheck_of_the_steps() -> None:
    state, value = normal(3, 4, seed=5).requires_grad_(), normal(4, seed=6).requires_grad_()
    rate, frequency = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.05, 0.2))
    torch.autograd.gradcheck(lambda *x: one_step(*x, torch.tensor(5)), (state, value, rate, frequency))
    zero = torch.zeros((), requires_grad=True)
    (gradient,) = torch.autograd.grad(write_gain(zero, torch.tensor(3)), zero)
    assert gradient.isfinite()


def arguments(*, length: int = 40, seed: int = 0) -> tuple[Tensor, ...]:
    """Query and key features, values; amplitude, phase, decay rate and frequency of a positive mask."""
    query, key, value = (normal(2, 3, length, width, seed=seed + width) for width in (4, 6, 5))
    weight, phase, rate, frequency = normal(4, 3, 3, seed=seed)
    still = torch.tensor([True, False, False])
    return (
        query.exp(),
        key[..., :4].exp(),
        value,
        torch.where(still, 3.0, 0.2 * weight.abs()),
        torch.where(still, 0.0, phase),
        torch.where(still, 0.01, 0.01 + rate.abs() / 4),
        torch.where(still, 0.0, frequency),
    )


def dense(query: Tensor, key: Tensor, value: Tensor, *spectrum: Tensor) -> Tensor:
    return dense_spectral_attention(query, key, value, ComplexSpectrum(*spectrum))


def in_chunks(chunk: int) -> Callable[..., Tensor]:
    return lambda query, key, value, *spectrum: causal_spectral_attention(
        query, key, value, ComplexSpectrum(*spectrum), chunk=chunk
    )[0]


def stream(query: Tensor, key: Tensor, value: Tensor, *spectrum: Tensor) -> Tensor:
    return run_stream(query, key, value, ComplexSpectrum(*spectrum))[0]


def run_stream(
    query: Tensor, key: Tensor, value: Tensor, spectrum: ComplexSpectrum, state: SpectralState | None = None
) -> tuple[Tensor, SpectralState]:
    if state is None:
        state = spectral_state(key, value, spectrum)
    outputs = []
    for t in range(value.shape[-2]):
        output, state = spectral_step(state, query[:, :, t], key[:, :, t], value[:, :, t], spectrum)
        outputs.append(output)
    return torch.stack(outputs, dim=-2), state


def test_dense_form_is_its_definition() -> None:
    query, key, value, amplitude, phase, rate, frequency = arguments(length=6)
    exponent = torch.complex(-rate, 2 * math.pi * frequency)
    output = dense(query, key, value, amplitude, phase, rate, frequency)
    for head in range(3):
        for i in range(6):
            mask = [
                (torch.polar(amplitude[head], phase[head]) * torch.exp(exponent[head] * (i - j))).sum().real
                for j in range(i + 1)
            ]
            weights = torch.stack([m * (query[0, head, i] @ key[0, head, j]) for j, m in enumerate(mask)])
            expected = weights @ value[0, head, : i + 1] / weights.sum()
            torch.testing.assert_close(output[0, head, i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    "form", [in_chunks(1), in_chunks(7), in_chunks(40), stream], ids=["1", "7", "L", "stream"]
)
def test_forms_agree(form: Callable[..., Tensor], dtype: torch.dtype, tolerance: float) -> None:
    inputs = arguments()
    actual = with_gradients(form, *(x.to(dtype) for x in inputs))
    expected = with_gradients(dense, *inputs)
    for index, (left, right) in enumerate(zip(actual, expected, strict=True)):
        error = (left.double() - right).abs().max()
        assert error <= tolerance * max(1.0, float(right.abs().max())), (index, error)


def test_a_stream_of_400_steps_is_the_batch() -> None:
    inputs = arguments(length=STEPS)
    assert (stream(*inputs) - dense(*inputs)).abs().max() <= 1e-12


@pytest.mark.parametrize("cut", [0, 1, 17])
def test_chunks_and_stream_share_a_state_that_can_be_saved(cut: int) -> None:
    query, key, value, *rest = arguments()
    spectrum = ComplexSpectrum(*rest)
    head, tail = ([x[:, :, part] for x in (query, key, value)] for part in (slice(cut), slice(cut, None)))
    before, state = causal_spectral_attention(*head, spectrum, chunk=5)
    buffer = io.BytesIO()
    torch.save(tuple(state), buffer)
    buffer.seek(0)
    expected = dense(query, key, value, *rest)
    torch.testing.assert_close(before, expected[:, :, :cut], rtol=0, atol=1e-12)
    for go_on in (
        run_stream(*tail, spectrum, state),
        causal_spectral_attention(*tail, spectrum, state=state),
    ):
        assert (go_on[0] - expected[:, :, cut:]).abs().max() <= 1e-12
    loaded = SpectralState(*torch.load(buffer))
    first, last = (run_stream(*tail, spectrum, x) for x in (state, loaded))
    assert torch.equal(first[0], last[0])
    chunked = causal_spectral_attention(*tail, spectrum, state=state)[1]
    for left, right in zip(first[1], chunked, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


def test_the_future_and_other_rows_change_nothing() -> None:
    query, key, value, *rest = arguments()
    before = in_chunks(7)(query, key, value, *rest)
    for changed in (query, key, value):
        changed[0, :, 25:] *= 3
        changed[1] *= 3
    after = in_chunks(7)(query, key, value, *rest)
    assert torch.equal(before[0, :, :25], after[0, :, :25])
    assert not torch.equal(before[0, :, 25], after[0, :, 25])


def test_nonnegative_mask() -> None:
    weight, rate, frequency = normal(3, 2, 4, seed=7)
    spectrum = ComplexSpectrum.nonnegative(weight.abs(), rate.abs(), frequency)
    lag = torch.arange(200.0)
    expected = torch.einsum(
        "hs,hst->ht",
        weight.abs(),
        torch.exp(-rate.abs()[..., None] * lag) * (1 + torch.cos(2 * math.pi * frequency[..., None] * lag)),
    )
    torch.testing.assert_close(spectrum.mask(lag), expected)
    assert (spectrum.mask(lag) >= -1e-15).all()


def test_one_still_component_is_a_decay() -> None:
    query, key, value = arguments()[:3]
    rate = torch.tensor([[0.1], [0.0], [0.5]], dtype=torch.float64)
    output = dense(query, key, value, torch.ones_like(rate), 0 * rate, rate, 0 * rate)
    expected = kernel_attention(query @ key.mT, value, decay_rate=rate[:, 0], causal=True)
    torch.testing.assert_close(output, expected)


def test_gradcheck() -> None:
    inputs = [x.requires_grad_() for x in arguments(length=4)]
    torch.autograd.gradcheck(in_chunks(3), inputs, fast_mode=True)


@pytest.mark.parametrize("chunk", [1, 7])
def test_padded_keys_take_no_part_and_queries_without_keys_read_0(chunk: int) -> None:
    query, key, value, *rest = arguments()
    spectrum, mask = ComplexSpectrum(*rest), torch.ones(2, 40, dtype=torch.bool)
    mask[0, 5:9], mask[1, :30] = False, False
    silent = key * mask[:, None, :, None]
    expected = dense_spectral_attention(query, silent, value, spectrum)
    key[0, :, 5:9], value[1, :, :30] = torch.nan, torch.inf
    exact = dense_spectral_attention(query, key, value, spectrum, key_mask=mask)
    output, _ = causal_spectral_attention(query, key, value, spectrum, key_mask=mask, chunk=chunk)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)
    assert (output[1, :, :30] == 0).all()
    with pytest.raises(ValueError, match=r"key_mask must be \[B, L'\] = \[2, 40\], got \[40\]"):
        dense_spectral_attention(query, key, value, spectrum, key_mask=mask[0])


@pytest.mark.parametrize("length", [0, 1])
def test_short_sequences(length: int) -> None:
    inputs = arguments(length=length)
    torch.testing.assert_close(in_chunks(4)(*inputs), inputs[2])


def test_half_precision_inputs_have_float32_states() -> None:
    inputs = [x.bfloat16() for x in arguments()]
    exact = ComplexSpectrum(*(x.float() for x in inputs[3:]))
    output, state = causal_spectral_attention(*inputs[:3], ComplexSpectrum(*inputs[3:]))
    expected, _ = causal_spectral_attention(*(x.float() for x in inputs[:3]), exact)
    assert output.dtype == torch.bfloat16
    assert state.real.dtype == torch.float32
    assert torch.equal(output, expected.bfloat16())
    output, state = spectral_step(state, *(x[:, :, 0] for x in inputs[:3]), ComplexSpectrum(*inputs[3:]))
    assert output.dtype == torch.bfloat16
    assert state.imag.dtype == torch.float32


@pytest.mark.parametrize("form", [dense, in_chunks(7), stream], ids=["dense", "7", "stream"])
def test_autocast_changes_nothing(form: Callable[..., Tensor]) -> None:
    inputs = [x.float() for x in arguments(length=8)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = form(*inputs)
    assert torch.equal(inside, form(*inputs))


def test_bad_input_is_named() -> None:
    query, key, value, *rest = arguments()
    spectrum = ComplexSpectrum(*rest)
    with pytest.raises(ValueError, match=r"amplitude must be \[H, S\], got shape \[3\]"):
        ComplexSpectrum(*(x[:, 0] for x in rest))
    with pytest.raises(ValueError, match=r"frequency must be \[H, S\] = \[3, 3\], got \[3, 2\]"):
        ComplexSpectrum(*rest[:3], rest[3][:, :2])
    with pytest.raises(ValueError, match="spectrum has 2 heads and value 3"):
        dense_spectral_attention(query, key, value, ComplexSpectrum(*(x[:2] for x in rest)))
    with pytest.raises(ValueError, match=r"disagree on L \(axis 2\): 39, 40, 40"):
        causal_spectral_attention(query[:, :, :39], key, value, spectrum)
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        causal_spectral_attention(query, key, value, spectrum, chunk=0)
    with pytest.raises(ValueError, match=r"query_features must be \[B, H, \.\], got shape"):
        spectral_step(spectral_state(key, value, spectrum), query, key, value, spectrum)
