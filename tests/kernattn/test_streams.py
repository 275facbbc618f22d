import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernattn import (
    ComplexSpectrum,
    FltStream,
    FourierSamples,
    SpectralStream,
    causal_flt_attention,
    dense_spectral_attention,
    gaussian_projection,
)

HEADS, DEPTH, WIDTH, FEATURES, SAMPLES = 2, 4, 3, 7, 3
pieces = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def draw(seed: int = 0) -> tuple[FourierSamples, Tensor]:
    samples = FourierSamples(
        normal(HEADS, SAMPLES, 1, seed=seed),
        normal(HEADS, SAMPLES, seed=seed + 1) / 2,
        normal(HEADS, SAMPLES, seed=seed + 2) / 2,
    )
    projection = gaussian_projection(
        FEATURES, DEPTH + 2 * SAMPLES, shape=(HEADS,), generator=generator(seed), dtype=torch.float64
    )
    return samples, projection


RATE = torch.tensor([0.0, 0.2], dtype=torch.float64)


def spectrum(seed: int = 0) -> ComplexSpectrum:
    amplitude, phase, rate, frequency = normal(4, HEADS, 2, seed=seed)
    return ComplexSpectrum(amplitude.abs(), phase / 4, rate.abs(), frequency)


def tokens(length: int, seed: int = 0) -> list[Tensor]:
    return [normal(2, HEADS, length, w, seed=seed + k) for k, w in enumerate((DEPTH, DEPTH, WIDTH))]


def run(stream: Any, inputs: list[Tensor], sizes: list[int]) -> Tensor:
    """Feed pieces, a piece of one token through `step`; save and load between them."""
    outputs, start = [], 0
    for size in sizes:
        piece = [x[:, :, start : start + size] for x in inputs]
        if size == 1:
            outputs.append(stream.step(*(x[:, :, 0] for x in piece))[:, :, None])
        else:
            outputs.append(stream.extend(*piece, chunk=4))
        start += size
        buffer = io.BytesIO()
        torch.save(stream.state_dict(), buffer)
        buffer.seek(0)
        stream.load_state_dict(torch.load(buffer))
    return torch.cat(outputs, dim=2)


@settings(max_examples=25, deadline=None)
@given(pieces, st.sampled_from([0, 10**6, 10**9]), st.integers(0, 10**6))
def test_an_flt_stream_in_any_pieces_is_the_batch(sizes: list[int], start: int, seed: int) -> None:
    inputs, (samples, projection) = tokens(sum(sizes), seed), draw(seed)
    position = torch.arange(start, start + sum(sizes))[:, None]
    expected, _ = causal_flt_attention(
        *inputs, samples=samples, projection=projection, position=position, decay_rate=RATE
    )
    stream = FltStream(samples, projection, decay_rate=RATE, start=start)
    torch.testing.assert_close(run(stream, inputs, sizes), expected, rtol=0, atol=1e-11)
    assert stream.position == start + sum(sizes)


@settings(max_examples=25, deadline=None)
@given(pieces, st.integers(0, 10**6))
def test_a_spectral_stream_in_any_pieces_is_the_batch(sizes: list[int], seed: int) -> None:
    query, key, value = tokens(sum(sizes), seed)
    inputs = [query.exp(), key.exp(), value]
    mask = ComplexSpectrum.nonnegative(*normal(3, HEADS, 2, seed=seed).abs())
    expected = dense_spectral_attention(*inputs, mask)
    torch.testing.assert_close(run(SpectralStream(mask), inputs, sizes), expected, rtol=0, atol=1e-10)


def test_streams_in_half_precision_keep_float32_sums() -> None:
    samples, projection = draw()
    single = FourierSamples(*(x.float() for x in samples))
    stream = FltStream(single, projection.float())
    output = stream.step(*(x[:, :, 0].bfloat16() for x in tokens(1)))
    assert output.dtype == torch.bfloat16
    assert stream.state is not None
    assert stream.state.dtype == torch.float32


def test_a_redraw_or_a_changed_spectrum_is_refused_in_mid_stream() -> None:
    samples, projection = draw()
    stream = FltStream(samples, projection, decay_rate=RATE)
    inputs = tokens(6)
    stream.extend(*inputs)
    stream.check(samples, projection, decay_rate=RATE)
    stream.check(FourierSamples(*(x.clone() for x in samples)), projection.clone(), decay_rate=RATE)
    other, redrawn = draw(seed=5)
    with pytest.raises(ValueError, match="projection changed since the stream began"):
        stream.check(samples, redrawn, decay_rate=RATE)
    with pytest.raises(ValueError, match="frequency changed since the stream began"):
        stream.check(samples._replace(frequency=other.frequency), projection, decay_rate=RATE)
    with pytest.raises(ValueError, match=r"ratio_real changed .* begin a new stream after a redraw"):
        stream.check(samples._replace(ratio_real=2 * samples.ratio_real), projection, decay_rate=RATE)
    with pytest.raises(ValueError, match="decay_rate changed since the stream began"):
        stream.check(samples, projection)
    fewer = FourierSamples(*(x[:, :2] for x in samples))
    with pytest.raises(ValueError, match="frequency and ratio_real and ratio_imag changed since"):
        stream.check(fewer, projection, decay_rate=RATE)
    with pytest.raises(ValueError, match="projection changed since the stream began"):
        FltStream(samples, redrawn, decay_rate=RATE).load_state_dict(stream.state_dict())
    begun = SpectralStream(spectrum())
    begun.check(spectrum())
    with pytest.raises(ValueError, match="changed since the stream began"):
        begun.check(spectrum(1))
    with pytest.raises(ValueError, match="changed since the stream began"):
        SpectralStream(spectrum(1)).load_state_dict(begun.state_dict())


def test_a_stream_keeps_its_draw_when_the_callers_changes_in_place() -> None:
    samples, projection = draw()
    inputs = tokens(6)
    expected = FltStream(samples, projection).extend(*inputs)
    stream = FltStream(samples, projection)
    first = stream.extend(*(x[:, :, :3] for x in inputs))
    before = samples.frequency.clone()
    samples.frequency.add_(1 / 3)
    second = stream.extend(*(x[:, :, 3:] for x in inputs))
    torch.testing.assert_close(torch.cat([first, second], dim=2), expected)
    with pytest.raises(ValueError, match="frequency changed"):
        stream.check(samples, projection)
    stream.check(samples._replace(frequency=before), projection)


def test_a_refused_load_changes_nothing() -> None:
    samples, projection = draw()
    stream = FltStream(samples, projection)
    stream.extend(*tokens(4))
    saved = stream.state_dict()
    other = FltStream(samples, draw(5)[1], start=3)
    with pytest.raises(ValueError, match="projection changed"):
        other.load_state_dict(saved)
    assert (other.position, other.state) == (3, None)
