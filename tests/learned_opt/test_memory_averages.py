"""The linear memories against their definitions: FLT with the exact spectrum, S4D, moments."""

import pytest
import torch
from torch.testing import assert_close

from kernattn.ssm import DiagonalSystem, dense_ssm
from learned_opt.memory import FLTConfig, MomentsConfig, S4DConfig
from tests.learned_opt.memories import draw, perturbed, stream

LAGS = torch.arange(200, dtype=torch.float64)


def test_flt_stream_is_the_dense_mask_over_all_the_past() -> None:
    memory = FLTConfig(betas=(0.5, 0.8, 0.9), second_beta=0.85, wave_betas=(0.7, 0.9)).build()
    meta, grads = memory.init_meta(torch.float64), draw(200)
    generator = torch.Generator().manual_seed(1)
    amplitude = meta["memory.wave_amplitude"]
    meta["memory.wave_amplitude"] = torch.randn(amplitude.shape, generator=generator, dtype=torch.float64)
    _, readout = stream(memory, meta, grads)
    assert_close(readout.first, memory.masks(meta, LAGS) @ grads.flip(0), rtol=1e-7, atol=1e-8)
    second = 0.15 * (0.85**LAGS) @ grads.flip(0).square()
    assert_close(readout.second, second, rtol=1e-7, atol=1e-8)


def test_flt_of_the_whole_spectrum_reads_every_component_in_the_first_head() -> None:
    betas, wave_betas, frequencies = (0.5, 0.8, 0.9), (0.7, 0.9), (0.25, 0.05)
    memory = FLTConfig(betas=betas, wave_betas=wave_betas, reading="spectrum").build()
    meta, grads = memory.init_meta(torch.float64), draw(200)
    amplitude = torch.randn(1, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert meta["memory.amplitude"].shape == amplitude.shape
    meta["memory.amplitude"] = amplitude
    averages = torch.stack([(1 - beta) * beta**LAGS for beta in betas])
    angles = [2 * torch.pi * frequency * LAGS for frequency in frequencies]
    damping = [(1 - beta) * beta**LAGS for beta in wave_betas]
    waves = [
        damped * turn(angle)
        for turn in (torch.cos, torch.sin)
        for damped, angle in zip(damping, angles, strict=True)
    ]
    expected = averages.clone()
    expected[0] += (4 * amplitude @ torch.cat([averages, torch.stack(waves)]))[0]
    assert_close(memory.masks(meta, LAGS), expected, rtol=1e-6, atol=1e-8)
    _, readout = stream(memory, meta, grads)
    assert_close(readout.first, expected @ grads.flip(0), rtol=1e-6, atol=1e-7)


def test_flt_waves_are_damped_cosines_with_their_own_bias_correction() -> None:
    memory = FLTConfig(wave_betas=(0.99,), wave_frequencies=(0.1,)).build()
    grads = draw(200)
    state, _ = stream(memory, memory.init_meta(torch.float64), grads)
    weight = 0.99**LAGS / (0.99**LAGS).sum()
    angle = 2 * torch.pi * 0.1 * LAGS
    assert_close(state[3], (weight * angle.cos()) @ grads.flip(0), rtol=1e-6, atol=1e-9)
    assert_close(state[4], (weight * angle.sin()) @ grads.flip(0), rtol=1e-6, atol=1e-9)


def test_s4d_is_adams_moment_and_the_convolution_of_its_system() -> None:
    memory = S4DConfig(step_sizes=(0.3, 0.1)).build()
    meta, grads = perturbed(memory), draw(200)
    _, readout = stream(memory, meta, grads)
    rate, frequency, size = (
        meta[name][None, None] for name in ("memory.log_rate", "memory.frequency", "memory.log_step_size")
    )
    real, imag = meta["memory.readout"]
    beta = torch.exp(-meta["memory.log_decay_rate"].exp())
    moment = (beta**LAGS / (beta**LAGS).sum()) @ grads.flip(0)
    for head in range(3):
        system = DiagonalSystem(
            rate.exp(), frequency, size.exp(), real[head][None, None], imag[head][None, None]
        )
        modes = dense_ssm(grads[None, None], system)[0, 0, -1]
        assert_close(readout.first[head], modes + moment if head == 0 else modes, rtol=1e-9, atol=1e-12)


def test_s4d_starts_as_s4d_lin_with_a_mode_a_row() -> None:
    memory = S4DConfig().build()
    meta = memory.init_meta(torch.float64)
    lin = DiagonalSystem.lin(1, 1, 3, dtype=torch.float64)
    assert_close(meta["memory.log_rate"].exp(), lin.rate[0, 0].expand(3))
    assert_close(meta["memory.frequency"], lin.frequency[0, 0])
    _, readout = stream(memory, meta, torch.ones(500, 1, dtype=torch.float64))
    assert readout.first[1].item() == pytest.approx(1.0, rel=1e-3)  # a mean, once it is settled


def test_moments_are_bias_corrected_averages() -> None:
    config = MomentsConfig(betas=(0.9, 0.99))
    grads = draw(200)
    _, readout = stream(config.build(), {}, grads)
    for row, beta in enumerate(config.betas):
        weight = beta**LAGS / (beta**LAGS).sum()
        assert_close(readout.first[row], weight @ grads.flip(0))
    weight = 0.999**LAGS / (0.999**LAGS).sum()
    assert_close(readout.second, weight @ grads.flip(0).square())


def test_mixed_moments_are_added_with_their_weights() -> None:
    grads = draw(200)
    memory = MomentsConfig(betas=(0.9,), mixed_betas=(0.5, 0.7)).build()
    _, averages = stream(MomentsConfig(betas=(0.9, 0.5, 0.7)).build(), {}, grads)
    weights = torch.tensor([[2.0, -3.0]], dtype=torch.float64)
    _, readout = stream(memory, {"memory.mixture": weights}, grads)
    first = averages.first
    assert_close(readout.first[0], first[0] + 2 * first[1] - 3 * first[2])


def test_moments_learn_no_factor() -> None:
    assert MomentsConfig().build().init_meta(torch.float32) == {}
    mixed = MomentsConfig(mixed_betas=(0.5,)).build().init_meta(torch.float32)
    assert list(mixed) == ["memory.mixture"]
    assert not mixed["memory.mixture"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": ()}, "betas is empty"),
        ({"betas": (1.0,)}, "1.0 is outside"),
        ({"second_beta": 0.0}, "0.0 is outside"),
        ({"wave_betas": (0.9, -0.1)}, "-0.1 is outside"),
        ({"wave_frequencies": (0.7, 0.1)}, "frequency 0.7 is outside"),
        ({"wave_frequencies": (0.1,)}, "2 wave_betas and 1 wave_frequencies"),
        ({"reading": "heads"}, "reading is 'heads'; expected one of waves, spectrum"),
    ],
)
def test_flt_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FLTConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.5}, "1.5 is outside"),
        ({"step_sizes": ()}, "step_sizes is"),
        ({"step_sizes": (0.1, 0.0)}, "step_sizes is"),
        ({"heads": 0}, "heads is 0"),
    ],
)
def test_s4d_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        S4DConfig(**options)


def test_moments_refuse() -> None:
    with pytest.raises(ValueError, match=r"nan is outside"):
        MomentsConfig(betas=(float("nan"),))
    with pytest.raises(ValueError, match="betas is empty"):
        MomentsConfig(betas=())
    with pytest.raises(ValueError, match=r"2.0 is outside"):
        MomentsConfig(mixed_betas=(2.0,))
