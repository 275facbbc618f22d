"""Attention over the gradient history: by content, and by content and time."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softsign
from torch.testing import assert_close

from kernattn import FourierSamples, flt_step
from learned_opt.layout import Layout
from learned_opt.memory import FLTV1Config, Meta, PerformerConfig
from tests.learned_opt.memories import draw, perturbed, stream

ONE = {"betas": (0.9,), "features": (3,)}


def content_of_keys(grads: Tensor, meta: Meta, features: int) -> Tensor:
    """Size of each gradient and its agreement with the average before it, ``[T, 2, N]``, step by step."""
    config = PerformerConfig(betas=(0.9,), features=(features,))
    memory = config.build()
    state = torch.zeros(memory.floats_per_parameter, grads.shape[1], dtype=grads.dtype)
    beta, second, rows = torch.exp(-meta["memory.log_second_decay_rate"].exp()), 0.0, []
    for index, grad in enumerate(grads, start=1):
        second = beta * second + grad.square()
        root = (second * (1 - beta) / (1 - beta**index)).sqrt()
        ratio, before = (grad / root).clamp(-10, 10), (state[0] / root).clamp(-10, 10)
        rows.append(torch.stack([ratio.abs().log().clamp_min(-10) / 10, softsign(ratio * before)]))
        state, _ = stream(memory, meta, grad[None], state=state, before=index - 1)
    return torch.stack(rows)


def test_performer_is_dense_attention_by_content() -> None:
    memory = PerformerConfig(**ONE).build()
    meta, grads = perturbed(memory), draw(50)
    state, readout = stream(memory, meta, grads)
    (matrix,), (weights,), (bias,) = (
        meta[f"memory.{name}"] for name in ("key_weight", "query_weight", "query_bias")
    )
    keys = matrix @ content_of_keys(grads, meta, 3)
    rows = meta["memory.projection"]
    written = torch.exp(rows @ keys - keys.square().sum(1, keepdim=True) / 2)  # [T, m, N]
    root = readout.second.sqrt()
    newest = state[0] / root
    content = torch.stack([newest.abs().log() / 10, softsign(newest * newest)])
    query = torch.exp(rows @ (weights @ content + bias[:, None]))
    lags = torch.arange(50, dtype=torch.float64).flip(0)
    decay = torch.exp(-lags * meta["memory.log_decay_rate"].exp())
    kernel = decay[:, None] * (query * written).sum(1)
    assert_close(readout.first[0], (kernel * grads).sum(0) / kernel.sum(0), rtol=1e-9, atol=1e-12)


def test_flt_v1_without_content_is_the_stream_of_the_papers_flt() -> None:
    memory = FLTV1Config(**ONE, wave_frequencies=(0.31, 0.07)).build()
    meta, grads = perturbed(memory), draw(60)
    meta["memory.key_weight"].zero_()
    meta["memory.query_weight"].zero_()
    amplitude, angle = meta["memory.wave_amplitude"], meta["memory.wave_phase"] * 2 * torch.pi
    ratio = amplitude.shape[1] * amplitude.square()
    samples = FourierSamples(
        meta["memory.wave_frequency"][..., None], ratio * angle.cos(), ratio * angle.sin()
    )
    signs = torch.cat([amplitude, amplitude], 1).sign()  # the amplitude here is a root, of either sign
    rows = meta["memory.projection"] * torch.cat([torch.ones(1, 2, dtype=torch.float64), signs], 1)
    query = meta["memory.query_bias"][:, None].mT.reshape(1, 1, 2) * 2**0.25
    state = torch.zeros(7, 1, 3, 2, dtype=torch.float64)
    for step, grad in enumerate(grads, start=1):
        expected, state = flt_step(
            state,
            query.expand(7, 1, 2),
            torch.zeros(7, 1, 2, dtype=torch.float64),
            grad[:, None, None],
            samples=samples,
            projection=rows[None],
            step=step,
            decay_rate=meta["memory.log_decay_rate"].exp(),
        )
    _, readout = stream(memory, meta, grads)
    assert_close(readout.first[0], expected[:, 0, 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("step", [1, 10**6, 2**24 - 1])
def test_phases_are_exact_far_into_a_stream(step: int) -> None:
    """Steps are counted in float32, phases are not."""
    memory = FLTV1Config(**ONE, wave_frequencies=(0.123456789,)).build()
    meta = perturbed(memory, dtype=torch.float32)
    meta["memory.wave_frequency"] = torch.tensor([[0.12345679]])
    layout, live = Layout([(5,)]), torch.ones(1)
    state = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) + 0.5
    count, grad = torch.full((1,), float(step)), torch.ones(5)
    after = memory.advance(meta, state, grad, count, live, layout)
    exact = {name: tensor.double() for name, tensor in meta.items()}
    turns = (float(meta["memory.wave_frequency"].double()) * step) % 1.0
    exact["memory.wave_frequency"] = torch.tensor([[turns]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    features = memory._key_features(meta, state[:3], grad, after[6], count, layout)
    expected = memory._key_features(exact, state[:3].double(), grad.double(), after[6].double(), one, layout)
    assert_close(features.double(), expected, rtol=2e-6, atol=1e-7)


def test_each_tensor_has_the_phase_of_its_own_step() -> None:
    memory = FLTV1Config().build()
    meta = perturbed(memory)
    layout, live = Layout([(2,), (3,)]), torch.ones(2, dtype=torch.float64)
    state, grad = draw(8, 5).abs(), draw(1, 5, seed=2)[0]
    steps = torch.tensor([4.0, 9.0], dtype=torch.float64)
    together = memory.advance(meta, state, grad, steps, live, layout)
    read = memory.read(meta, together, steps, layout).first
    for column, part in ((0, slice(0, 2)), (1, slice(2, 5))):
        alone = Layout([(part.stop - part.start,)])
        own = memory.advance(meta, state[:, part], grad[part], steps[column : column + 1], live[:1], alone)
        assert_close(together[:, part], own, rtol=1e-12, atol=1e-13)
        first = memory.read(meta, own, steps[column : column + 1], alone).first
        assert_close(read[:, part], first, rtol=1e-12, atol=1e-13)


def test_whatever_is_asked_of_constant_keys_is_adams_average() -> None:
    memory = FLTV1Config().build()
    meta, grads = perturbed(memory), draw(30)
    meta["memory.key_weight"].zero_()
    meta["memory.wave_amplitude"].zero_()
    _, readout = stream(memory, meta, grads)
    beta = torch.exp(-meta["memory.log_decay_rate"].exp())[:, None]
    weight = beta ** torch.arange(30, dtype=torch.float64)
    assert_close(readout.first, weight / weight.sum(1, keepdim=True) @ grads.flip(0))


def test_long_keys_underflow_to_what_is_finite() -> None:
    memory = PerformerConfig(**ONE).build()
    meta = memory.init_meta(torch.float32)
    meta["memory.key_weight"] = torch.full((1, 2, 2), 1e4)
    state, readout = stream(memory, meta, draw(10).float())
    assert state.isfinite().all()
    assert readout.first.isfinite().all()


def test_heads_without_features_are_plain_averages() -> None:
    memory = PerformerConfig(features=(0, 0, 0)).build()
    assert memory.floats_per_parameter == 4
    grads = draw(30)
    _, readout = stream(memory, memory.init_meta(torch.float64), grads)
    beta = torch.tensor([[0.9], [0.99], [0.999]], dtype=torch.float64)
    weight = beta ** torch.arange(30, dtype=torch.float64)
    assert_close(readout.first, weight / weight.sum(1, keepdim=True) @ grads.flip(0))


@pytest.mark.parametrize("kind", [PerformerConfig, FLTV1Config])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (), "features": ()}, "betas is empty"),
        ({"betas": (0.9, 1.0, 0.5)}, "1.0 is outside"),
        ({"features": (1, 2)}, r"features is \(1, 2\)"),
        ({"features": (1, 2, -1)}, "one number from 0 for each of 3 betas"),
    ],
)
def test_configurations_that_are_refused(kind, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_flt_v1_refuses_frequencies_above_half_a_cycle() -> None:
    with pytest.raises(ValueError, match=r"frequency 0.6 is outside \(0, 1/2\]"):
        FLTV1Config(wave_frequencies=(0.6,))
