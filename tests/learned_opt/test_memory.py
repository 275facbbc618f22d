"""What every memory owes the rule."""

import io

import pytest
import torch
from torch.func import vmap
from torch.testing import assert_close

from learned_opt.layout import Layout
from learned_opt.memory import MEMORIES, FLTConfig, MemoryConfig, MomentsConfig
from learned_opt.rounding import round_to_bfloat16
from tests.learned_opt.memories import CONFIGS, LINEAR, draw, perturbed, stream

every_memory = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_memory
def test_the_first_average_and_the_second_moment_start_as_adams_to_the_bit(
    config: MemoryConfig, dtype: torch.dtype
) -> None:
    grads = draw(120).to(dtype)
    adam, memory = FLTConfig().build(), config.build()
    _, expected = stream(adam, adam.init_meta(dtype), grads)
    _, readout = stream(memory, memory.init_meta(dtype), grads)
    if isinstance(config, MomentsConfig):  # its rates are not rounded as exponentials of logarithms are
        assert_close(readout.first[0], expected.first[0])
        assert_close(readout.second, expected.second)
        return
    assert torch.equal(readout.first[0], expected.first[0])
    assert torch.equal(readout.second, expected.second)
    assert readout.first.shape == (memory.heads, 7)


@every_memory
def test_the_last_row_of_the_state_is_the_second_moment(config: MemoryConfig) -> None:
    memory = config.build()
    state, readout = stream(memory, perturbed(memory), draw(30))
    assert_close(state[-1], readout.second)


@every_memory
def test_the_first_mask_is_adams(config: MemoryConfig) -> None:
    memory = config.build()
    lags = torch.arange(50, dtype=torch.float64)
    masks = memory.masks(memory.init_meta(torch.float64), lags)
    assert masks.shape == (memory.heads, 50)
    assert_close(masks[0], 0.1 * 0.9**lags, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", LINEAR)
def test_masks_say_what_a_gradient_counts(name: str) -> None:
    """So late that the bias corrections are 1."""
    memory = CONFIGS[name].build()
    meta = {key: tensor.clone() for key, tensor in perturbed(memory, 0.05).items()}
    grads = torch.zeros(8, 1, dtype=torch.float64)
    grads[0] = 1.0
    _, readout = stream(memory, meta, grads, before=10**6)
    assert_close(
        readout.first[:, 0],
        memory.masks(meta, torch.tensor([7.0], dtype=torch.float64))[:, 0],
        rtol=1e-6,
        atol=1e-12,
    )


@every_memory
def test_a_dead_column_keeps_its_state_and_the_others_move(config: MemoryConfig) -> None:
    memory = config.build()
    meta = perturbed(memory)
    layout = Layout([(3,), (4,)])
    state, _ = stream(memory, meta, draw(4))
    step = torch.tensor([5.0, 6.0], dtype=torch.float64)
    live = torch.tensor([0.0, 1.0], dtype=torch.float64)
    after = memory.advance(meta, state, draw(1, seed=1)[0], step, live, layout)
    assert torch.equal(after[:, :3], state[:, :3])
    assert (after[:, 3:] != state[:, 3:]).all()


@pytest.mark.parametrize("cut", [1, 7, 59])
@every_memory
def test_a_saved_stream_goes_on_to_the_same_bits(config: MemoryConfig, cut: int) -> None:
    memory = config.build()
    meta, grads = perturbed(memory), draw(60)
    whole, expected = stream(memory, meta, grads)
    state, _ = stream(memory, meta, grads[:cut])
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    end, readout = stream(memory, meta, grads[cut:], state=torch.load(buffer), before=cut)
    assert torch.equal(end, whole)
    assert torch.equal(readout.first, expected.first)


@every_memory
def test_elements_do_not_see_each_other(config: MemoryConfig) -> None:
    memory = config.build()
    meta, grads = perturbed(memory), draw(20)
    _, together = stream(memory, meta, grads)
    _, alone = stream(memory, meta, grads[:, 2:3])
    assert_close(together.first[:, 2:3], alone.first, rtol=1e-12, atol=1e-13)


@every_memory
def test_averages_flip_and_scale_with_the_gradients(config: MemoryConfig) -> None:
    memory = config.build()
    meta, grads = perturbed(memory), draw(40)
    _, plain = stream(memory, meta, grads)
    _, other = stream(memory, meta, -1e4 * grads)
    assert_close(other.first, -1e4 * plain.first)
    assert_close(other.second, 1e8 * plain.second)


@every_memory
def test_no_gradients_are_remembered_as_none(config: MemoryConfig) -> None:
    memory = config.build()
    _, readout = stream(memory, perturbed(memory), torch.zeros(5, 3, dtype=torch.float64))
    assert not readout.first.any()
    assert not readout.second.any()


@pytest.mark.parametrize("size", [1e-25, 1e-12, 1e18])
@every_memory
def test_gradients_of_any_size_stay_finite(config: MemoryConfig, size: float) -> None:
    memory = config.build()
    meta = {name: tensor.requires_grad_() for name, tensor in perturbed(memory, dtype=torch.float32).items()}
    grads = (size * draw(30)).float()
    grads[:, 0], grads[3:9, 1] = 0.0, 0.0
    _, readout = stream(memory, meta, grads)
    assert readout.first.isfinite().all()
    if not meta:
        return
    usual = readout.second.detach().sqrt() + 1e-18
    (readout.first / usual).square().sum().backward()
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in meta.values())


@every_memory
def test_every_meta_parameter_counts(config: MemoryConfig) -> None:
    memory = config.build()
    meta = {name: tensor.requires_grad_() for name, tensor in perturbed(memory).items()}
    _, readout = stream(memory, meta, draw(30))
    if meta:
        (readout.first.square().sum() + readout.second.square().sum()).backward()
    for name, tensor in meta.items():
        assert tensor.grad is not None, name
        assert tensor.grad.any(), name


@every_memory
def test_a_population_is_its_members(config: MemoryConfig) -> None:
    memory = config.build()
    metas = [perturbed(memory, size) for size in (0.1, 0.2, 0.3)]
    grads = torch.stack([draw(6, seed=seed) for seed in range(3)])
    alone = [stream(memory, meta, each)[1].first for meta, each in zip(metas, grads, strict=True)]
    meta = {name: torch.stack([each[name] for each in metas]) for name in metas[0]}
    layout, live = Layout([(7,)], pooled=True), torch.ones(3, 1, dtype=torch.float64)
    state = torch.zeros(3, memory.floats_per_parameter, 7, dtype=torch.float64)
    for index in range(6):
        step = torch.full((3, 1), index + 1.0, dtype=torch.float64)
        state = vmap(memory.advance, in_dims=(0, 0, 0, 0, 0, None))(
            meta, state, grads[:, index], step, live, layout
        )
    first, _ = vmap(memory.read, in_dims=(0, 0, 0, None))(meta, state, step, layout)
    assert_close(first, torch.stack(alone), rtol=1e-11, atol=1e-12)


@every_memory
def test_a_state_in_bfloat16_is_near_the_exact_one(config: MemoryConfig) -> None:
    memory = config.build()
    meta, grads = perturbed(memory, 0.1, torch.float32), draw(200, 500).float()
    layout, live = Layout([(500,)]), torch.ones(1)
    state = torch.zeros(memory.floats_per_parameter, 500)
    for index, grad in enumerate(grads, start=1):
        step = torch.full((1,), float(index))
        state = round_to_bfloat16(memory.advance(meta, state, grad, step, live, layout), step, layout).float()
    coarse = memory.read(meta, state, step, layout)
    _, exact = stream(memory, meta, grads)
    for row, expected in zip(coarse.first, exact.first, strict=True):
        assert (row - expected).norm() <= 0.05 * expected.norm()
    assert (coarse.second - exact.second).norm() <= 0.05 * exact.second.norm()


@every_memory
def test_time_scales_start_with_adams(config: MemoryConfig) -> None:
    memory = config.build()
    scales = {scale.name: scale for scale in memory.time_scales(memory.init_meta(torch.float64))}
    assert scales["average 1"].half_life == pytest.approx(6.5788, rel=1e-4)
    assert scales["squares"].half_life == pytest.approx(692.8, rel=1e-4)


def test_the_registry_names_every_configuration_once() -> None:
    assert len(set(MEMORIES.values())) == len(MEMORIES)


def test_all_but_the_plain_moments_take_eight_floats() -> None:
    floats = {name: config().build().floats_per_parameter for name, config in MEMORIES.items()}
    assert floats == {"flt": 8, "flt-v1": 8, "performer": 8, "s4d": 8, "lstm": 8, "moments": 4}
