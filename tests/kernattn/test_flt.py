import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from kernattn import (
    FourierSamples,
    GaussianMixture,
    causal_flt_attention,
    extend,
    flt_attention,
    flt_gains,
    flt_step,
    fourier_features,
    gaussian_projection,
    kernel_attention,
    pairwise_lags,
    positive_features,
    softmax_attention,
)
from tests.kernattn.comparing import assert_near

HEADS, SAMPLES, FEATURES, DEPTH, WIDTH = 3, 4, 12, 6, 5
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Case(NamedTuple):
    query: Tensor
    key: Tensor
    value: Tensor
    frequency: Tensor
    ratio_real: Tensor
    ratio_imag: Tensor
    projection: Tensor
    rate: Tensor

    def options(self) -> dict[str, Any]:
        samples = FourierSamples(self.frequency, self.ratio_real, self.ratio_imag)
        return {"samples": samples, "projection": self.projection}


def case(*, length: int = 40, batch: int = 2, seed: int = 0, dimension: int = 1) -> Case:
    """Fresh inputs, with ratios of both signs and with imaginary parts."""
    source = generator(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    return Case(
        normal(batch, HEADS, length, DEPTH),
        normal(batch, HEADS, length, DEPTH),
        normal(batch, HEADS, length, WIDTH),
        normal(HEADS, SAMPLES, dimension),
        normal(HEADS, SAMPLES) / 2,
        normal(HEADS, SAMPLES) / 2,
        gaussian_projection(
            FEATURES, DEPTH + 2 * SAMPLES, shape=(HEADS,), generator=source, dtype=torch.float64
        ),
        normal(HEADS).abs() / 8,
    )


def cast(inputs: Case, dtype: torch.dtype) -> Case:
    return Case(*(x.to(dtype) for x in inputs))


def positions(length: int, start: int = 0) -> Tensor:
    return start + torch.arange(length)[:, None]


def dense(inputs: Case, *, causal: bool, start: int = 0) -> Tensor:
    """Attention with the L x L matrix of the same positive features."""
    samples = inputs.options()["samples"]
    phi, psi = fourier_features(samples, positions(inputs.value.shape[-2], start))
    query, key = (
        positive_features(extend(x, fourier), inputs.projection)
        for x, fourier in ((inputs.query, phi), (inputs.key, psi))
    )
    rate = inputs.rate if causal else None
    return kernel_attention(query @ key.mT, inputs.value, decay_rate=rate, causal=causal)


def bidirectional(inputs: Case) -> Tensor:
    return flt_attention(inputs.query, inputs.key, inputs.value, **inputs.options())


def in_chunks(inputs: Case, chunk: int = 7, **options: Any) -> tuple[Tensor, Tensor]:
    return causal_flt_attention(
        inputs.query,
        inputs.key,
        inputs.value,
        **inputs.options(),
        decay_rate=inputs.rate,
        chunk=chunk,
        **options,
    )


def stream(inputs: Case, *, start: int = 0, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    batch, _, length, width = inputs.value.shape
    if state is None:
        state = inputs.value.new_zeros(batch, HEADS, FEATURES, width + 1)
    outputs = []
    for t in range(length):
        output, state = flt_step(
            state,
            inputs.query[:, :, t],
            inputs.key[:, :, t],
            inputs.value[:, :, t],
            **inputs.options(),
            step=start + t,
            decay_rate=inputs.rate,
        )
        outputs.append(output)
    return torch.stack(outputs, dim=-2), state


def with_gradients(function: Callable[[Case], Tensor], inputs: Case) -> list[Tensor]:
    """The output and the gradient of a fixed random projection of it in every input that matters."""
    leaves = Case(*(x.detach().clone().requires_grad_() for x in inputs))
    output = function(leaves)
    direction = torch.randn(output.shape, generator=generator(1)).to(output)
    gradients = torch.autograd.grad((output * direction).sum(), leaves, allow_unused=True)
    return [output.detach(), *(x for x in gradients if x is not None)]


@pytest.mark.parametrize("dimension", [1, 2])
def test_features_of_positions_multiply_to_the_estimate_of_the_log_mask(dimension: int) -> None:
    inputs = case(dimension=dimension)
    samples: FourierSamples = inputs.options()["samples"]
    position = torch.randn(9, dimension, generator=generator(2), dtype=torch.float64)
    phi, psi = fourier_features(samples, position)
    assert phi.shape == (HEADS, 9, 2 * SAMPLES)
    torch.testing.assert_close(phi @ psi.mT, samples.log_mask(pairwise_lags(position)))
    amplitude = torch.hypot(samples.ratio_real, samples.ratio_imag).mean(dim=-1)
    for features in (phi, psi):
        torch.testing.assert_close(features.square().sum(dim=-1), amplitude[:, None].expand(HEADS, 9))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_bidirectional_form_is_the_matrix_of_its_features(dtype: torch.dtype) -> None:
    inputs = case()
    actual = with_gradients(bidirectional, cast(inputs, dtype))
    assert_near(actual, with_gradients(lambda x: dense(x, causal=False), inputs), 10 * TOLERANCE[dtype])


FORMS: dict[str, Callable[[Case], Tensor]] = {
    "chunk 1": lambda inputs: in_chunks(inputs, 1)[0],
    "chunk 7": lambda inputs: in_chunks(inputs, 7)[0],
    "chunk L": lambda inputs: in_chunks(inputs, 40)[0],
    "stream": lambda inputs: stream(inputs)[0],
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", FORMS)
def test_causal_forms_are_the_matrix_of_their_features(form: str, dtype: torch.dtype) -> None:
    inputs = case()
    actual = with_gradients(FORMS[form], cast(inputs, dtype))
    assert_near(actual, with_gradients(lambda x: dense(x, causal=True), inputs), 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("start", [0, 10**6, 10**9])
def test_a_stream_of_400_steps_is_the_batch_wherever_it_starts(start: int) -> None:
    inputs = case(length=400)
    expected = dense(inputs, causal=True, start=start)
    assert (stream(inputs, start=start)[0] - expected).abs().max() <= 1e-12
    single = cast(inputs, torch.float32)
    assert (
        stream(single, start=start)[0] - dense(cast(single, torch.float64), causal=True, start=start)
    ).abs().max() <= 1e-5


@pytest.mark.parametrize("start", [10**6, 10**9])
def test_gains_are_periodic_where_the_frequencies_are(start: int) -> None:
    inputs = case()
    samples = FourierSamples(
        torch.tensor([0.5, 0.25, 0.125, -0.375], dtype=torch.float64).expand(HEADS, SAMPLES)[..., None],
        inputs.ratio_real,
        inputs.ratio_imag,
    )
    for t in range(8):
        near, far = (flt_gains(samples, inputs.projection, step) for step in (t, start + t))
        assert all(torch.equal(a, b) for a, b in zip(near, far, strict=True))


def test_gains_have_one_definition_with_the_features() -> None:
    inputs = case()
    samples = inputs.options()["samples"]
    read, write = flt_gains(samples, inputs.projection, torch.tensor(13))
    phi, psi = fourier_features(samples, torch.tensor([[13]]))
    position_rows = inputs.projection[..., DEPTH:]
    amplitude = torch.hypot(inputs.ratio_real, inputs.ratio_imag).mean(dim=-1, keepdim=True)
    torch.testing.assert_close(read, torch.exp((position_rows @ phi.mT).squeeze(-1) - amplitude / 2))
    torch.testing.assert_close(write, torch.exp((position_rows @ psi.mT).squeeze(-1) - amplitude / 2))


@pytest.mark.parametrize("cut", [1, 23])
def test_chunks_and_stream_share_a_state_that_can_be_saved(cut: int) -> None:
    inputs = case()
    head, tail = (
        inputs._replace(query=inputs.query[:, :, s], key=inputs.key[:, :, s], value=inputs.value[:, :, s])
        for s in (slice(cut), slice(cut, None))
    )
    expected = dense(inputs, causal=True)
    _, state = in_chunks(head)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer)
    assert torch.equal(stream(tail, start=cut, state=state)[0], stream(tail, start=cut, state=loaded)[0])
    assert (stream(tail, start=cut, state=loaded)[0] - expected[:, :, cut:]).abs().max() <= 1e-12
    again, _ = in_chunks(tail, position=positions(40 - cut, cut), state=loaded)
    assert (again - expected[:, :, cut:]).abs().max() <= 1e-12


@pytest.mark.parametrize("causal", [False, True])
def test_more_features_and_samples_approach_the_reference(causal: bool) -> None:
    draws, length, width = 24, 12, 4
    query, key = (
        torch.randn(1, 1, length, width, generator=generator(seed), dtype=torch.float64) / 2
        for seed in (0, 1)
    )
    value = torch.linspace(-1, 1, length, dtype=torch.float64)[:, None].expand(1, 1, length, 1)
    weight = torch.tensor([[4.0, -1.0, 2.0]], dtype=torch.float64)
    mean = torch.tensor([[[0.0], [0.1], [0.02]]], dtype=torch.float64)
    scale = torch.tensor([[0.04, 0.03, 0.05]], dtype=torch.float64)
    phase = torch.tensor([[0.0, 0.0, -math.pi / 2]], dtype=torch.float64)
    rate = torch.tensor([0.2], dtype=torch.float64) if causal else None
    log_mask = GaussianMixture(weight, mean, scale, phase).log_mask(pairwise_lags(positions(length)))
    exact = softmax_attention(query, key, value, log_mask=log_mask, decay_rate=rate, causal=causal)
    unmasked = softmax_attention(query, key, value, decay_rate=rate, causal=causal)
    mixture = GaussianMixture(*(x.expand(draws, *x.shape[1:]) for x in (weight, mean, scale, phase)))
    inputs = [x.expand(1, draws, -1, -1) for x in (query, key, value)]

    def error(features: int, samples: int) -> float:
        drawn = mixture.sample(samples, generator=generator(3), stratified=True)
        options: dict[str, Any] = {
            "samples": drawn,
            "projection": gaussian_projection(
                features, width + 2 * samples, shape=(draws,), generator=generator(4), dtype=torch.float64
            ),
        }
        if causal:
            output, _ = causal_flt_attention(*inputs, **options, decay_rate=rate)
        else:
            output = flt_attention(*inputs, **options)
        return float((output - exact).square().mean().sqrt())

    errors = [error(64, 8), error(512, 16), error(4096, 32)]
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    assert errors[2] < float((unmasked - exact).square().mean().sqrt()) / 3


@pytest.mark.parametrize("causal", [False, True])
def test_other_rows_of_the_batch_change_nothing(causal: bool) -> None:
    inputs = cast(case(), torch.float32)

    def attend() -> Tensor:
        return in_chunks(inputs)[0] if causal else bidirectional(inputs)

    before = attend()
    for changed in (inputs.query, inputs.key, inputs.value):
        changed[1] *= 5
    assert torch.equal(before[0], attend()[0])


def test_the_future_changes_nothing() -> None:
    inputs = cast(case(), torch.float32)
    before, _ = in_chunks(inputs)
    for changed in (inputs.query, inputs.key, inputs.value):
        changed[:, :, 25] += 1
    after, _ = in_chunks(inputs)
    assert torch.equal(before[:, :, :25], after[:, :, :25])
    assert not torch.equal(before[:, :, 25], after[:, :, 25])


def test_gradcheck() -> None:
    inputs = case(length=4, batch=1)
    leaves = [x.requires_grad_() for x in inputs]
    for form in (bidirectional, lambda x: in_chunks(x, 3), stream):
        torch.autograd.gradcheck(lambda *x, form=form: form(Case(*x)), leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("form", ["bidirectional", *FORMS])
def test_long_queries_and_keys_have_finite_gradients(form: str, dtype: torch.dtype) -> None:
    inputs = case()
    query, key = (30 * x / x.norm(dim=-1, keepdim=True) for x in (inputs.query, inputs.key))
    function = bidirectional if form == "bidirectional" else FORMS[form]
    for long in (inputs._replace(query=query), inputs._replace(query=query, key=key)):
        inputs_cast = long._replace(
            **{name: getattr(long, name).to(dtype) for name in ("query", "key", "value")}
        )
        assert all(x.isfinite().all() for x in with_gradients(function, inputs_cast))


@pytest.mark.parametrize("form", ["bidirectional", *FORMS])
def test_long_queries_are_still_right(form: str) -> None:
    inputs = case()
    long = inputs._replace(query=30 * inputs.query / inputs.query.norm(dim=-1, keepdim=True))
    function = bidirectional if form == "bidirectional" else FORMS[form]
    error = function(cast(long, torch.float32)).double() - dense(long, causal=form != "bidirectional")
    assert error.abs().max() < 1e-4


def test_a_vanishing_amplitude_has_finite_gradients() -> None:
    inputs = case()
    silent = inputs._replace(ratio_real=0 * inputs.ratio_real, ratio_imag=0 * inputs.ratio_imag)
    assert all(x.isfinite().all() for x in with_gradients(bidirectional, silent))


def test_half_precision_inputs_have_float32_states() -> None:
    inputs = case()
    half = inputs._replace(**{name: getattr(inputs, name).bfloat16() for name in ("query", "key", "value")})
    exact = half._replace(**{name: getattr(half, name).float() for name in ("query", "key", "value")})
    assert bidirectional(half).dtype == torch.bfloat16
    for form in (in_chunks, stream):
        output, state = form(half, state=torch.zeros(2, HEADS, FEATURES, WIDTH + 1))
        expected, expected_state = form(exact, state=torch.zeros(2, HEADS, FEATURES, WIDTH + 1))
        assert output.dtype == torch.bfloat16
        assert state.dtype == torch.float32
        assert torch.equal(output, expected.bfloat16())
        assert torch.equal(state, expected_state)


@pytest.mark.parametrize("form", ["bidirectional", *FORMS])
def test_autocast_changes_nothing(form: str) -> None:
    inputs = cast(case(), torch.float32)
    function = bidirectional if form == "bidirectional" else FORMS[form]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = function(inputs)
    assert torch.equal(inside, function(inputs))


@pytest.mark.parametrize("beta", [0.9, 0.999])
def test_constant_keys_without_positions_are_the_bias_corrected_moments_of_adam(beta: float) -> None:
    gradient = torch.randn(1, 1, 200, 3, generator=generator(5), dtype=torch.float64)
    values = torch.cat([gradient, gradient.square()], dim=-1)
    inputs = case(length=200, batch=1)
    silent = inputs._replace(
        query=torch.ones(1, HEADS, 200, DEPTH, dtype=torch.float64),
        key=torch.ones(1, HEADS, 200, DEPTH, dtype=torch.float64),
        value=values.expand(1, HEADS, 200, 6),
        ratio_real=0 * inputs.ratio_real,
        ratio_imag=0 * inputs.ratio_imag,
        rate=torch.full((HEADS,), -math.log(beta), dtype=torch.float64),
    )
    output, _ = stream(silent)
    moments = torch.zeros(6, dtype=torch.float64)
    for t, value in enumerate(values[0, 0]):
        moments = beta * moments + (1 - beta) * value
        expected = (moments / (1 - beta ** (t + 1))).expand(1, HEADS, 6)
        torch.testing.assert_close(output[:, :, t], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("length", [0, 1])
def test_short_sequences(length: int) -> None:
    inputs = case(length=length)
    torch.testing.assert_close(bidirectional(inputs), inputs.value)
    torch.testing.assert_close(in_chunks(inputs)[0], inputs.value)


def test_bad_input_is_named() -> None:
    inputs = case()
    with pytest.raises(ValueError, match=r"value must be \[B, H, L, \.\], got shape \[3, 40, 5\]"):
        bidirectional(inputs._replace(value=inputs.value[0]))
    with pytest.raises(ValueError, match=r"key and value disagree on L \(axis 2\): 40, 39"):
        bidirectional(inputs._replace(value=inputs.value[:, :, :39]))
    with pytest.raises(ValueError, match=r"position must be .L, l. or .B, L, l. with L = 40"):
        in_chunks(inputs, position=positions(39))
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        in_chunks(inputs, 0)
    with pytest.raises(ValueError, match=r"x and projection disagree on E \(axis -1\): 14, 13"):
        bidirectional(inputs._replace(projection=inputs.projection[..., :13]))
    with pytest.raises(ValueError, match=r"projection must be \[..., m, D \+ 2r\], r = 4, got \[3, 12, 7\]"):
        flt_gains(inputs.options()["samples"], inputs.projection[..., :7], 3)
    with pytest.raises(ValueError, match="step must be one integer, got 1"):
        flt_gains(inputs.options()["samples"], inputs.projection, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frequency and step disagree on l"):
        flt_gains(case(dimension=2).options()["samples"], inputs.projection, 3)
