import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from learned_opt.layout import Layout
from learned_opt.memory import MEMORIES, FLTConfig, Memory, Meta, MomentsConfig


def stream(memory: Memory, meta: Meta, grads: Tensor) -> Tensor:
    """The memory's state after these gradients, ``[T, N]``."""
    layout = Layout([(grads.shape[1],)])
    state = torch.zeros(memory.floats_per_parameter, grads.shape[1], dtype=grads.dtype)
    for step, grad in enumerate(grads, start=1):
        count = torch.full((1,), float(step), dtype=grads.dtype)
        state = memory.advance(meta, state, grad, count, torch.ones(1, dtype=grads.dtype), layout)
    return state


@pytest.fixture
def grads() -> Tensor:
    return torch.randn(200, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("betas", [(0.5, 0.8, 0.9)])
def test_flt_stream_is_the_dense_mask_over_all_the_past(grads: Tensor, betas: tuple[float, ...]) -> None:
    memory = FLTConfig(betas=betas, second_beta=0.85, wave_betas=(0.7, 0.9)).build()
    meta = memory.init_meta(torch.float64)
    generator = torch.Generator().manual_seed(1)
    amplitude = meta["memory.wave_amplitude"]
    meta["memory.wave_amplitude"] = torch.randn(amplitude.shape, generator=generator, dtype=torch.float64)
    lags = torch.arange(len(grads), dtype=torch.float64)
    dense = memory.masks(meta, lags) @ grads.flip(0)
    readout = memory.read(meta, stream(memory, meta, grads))
    assert_close(readout.first, dense, rtol=1e-7, atol=1e-8)
    second = 0.15 * (0.85**lags) @ grads.flip(0).square()
    assert_close(readout.second, second, rtol=1e-7, atol=1e-8)


def test_flt_waves_are_damped_cosines_with_their_own_bias_correction(grads: Tensor) -> None:
    config = FLTConfig(wave_betas=(0.99,), wave_frequencies=(0.1,))
    memory = config.build()
    meta = memory.init_meta(torch.float64)
    state = stream(memory, meta, grads)
    lags = torch.arange(len(grads), dtype=torch.float64)
    weight = 0.99**lags / (0.99**lags).sum()
    angle = 2 * torch.pi * 0.1 * lags
    assert_close(state[3], (weight * angle.cos()) @ grads.flip(0), rtol=1e-6, atol=1e-9)
    assert_close(state[4], (weight * angle.sin()) @ grads.flip(0), rtol=1e-6, atol=1e-9)


def test_moments_are_bias_corrected_averages(grads: Tensor) -> None:
    config = MomentsConfig(betas=(0.9, 0.99))
    memory = config.build()
    readout = memory.read({}, stream(memory, {}, grads))
    lags = torch.arange(len(grads), dtype=torch.float64)
    for row, beta in enumerate(config.betas):
        weight = beta**lags / (beta**lags).sum()
        assert_close(readout.first[row], weight @ grads.flip(0))
    weight = 0.999**lags / (0.999**lags).sum()
    assert_close(readout.second, weight @ grads.flip(0).square())


def test_moments_learn_nothing() -> None:
    assert MomentsConfig().build().init_meta(torch.float32) == {}


@pytest.mark.parametrize("kind", MEMORIES)
def test_the_first_mask_is_adams(kind: str) -> None:
    memory = MEMORIES[kind]().build()
    lags = torch.arange(50, dtype=torch.float64)
    masks = memory.masks(memory.init_meta(torch.float64), lags)
    assert masks.shape == (memory.heads, 50)
    assert_close(masks[0], 0.1 * 0.9**lags)


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_dead_column_keeps_its_state_and_the_others_move(kind: str, grads: Tensor) -> None:
    memory = MEMORIES[kind]().build()
    meta = memory.init_meta(torch.float64)
    layout = Layout([(3,), (4,)])
    state = torch.randn(memory.floats_per_parameter, 7, dtype=torch.float64)
    step = torch.tensor([5.0, 6.0], dtype=torch.float64)
    after = memory.advance(meta, state, grads[0], step, torch.tensor([0.0, 1.0], dtype=torch.float64), layout)
    assert torch.equal(after[:, :3], state[:, :3])
    assert (after[:, 3:] != state[:, 3:]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": ()}, "betas is empty"),
        ({"betas": (1.0,)}, "1.0 is outside"),
        ({"second_beta": 0.0}, "0.0 is outside"),
        ({"wave_betas": (0.9, -0.1)}, "-0.1 is outside"),
        ({"wave_frequencies": (0.7, 0.1)}, "frequency 0.7 is outside"),
        ({"wave_frequencies": (0.1,)}, "2 wave_betas and 1 wave_frequencies"),
    ],
)
def test_flt_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FLTConfig(**options)


def test_moments_refuse() -> None:
    with pytest.raises(ValueError, match=r"nan is outside"):
        MomentsConfig(betas=(float("nan"),))
    with pytest.raises(ValueError, match="betas is empty"):
        MomentsConfig(betas=())
