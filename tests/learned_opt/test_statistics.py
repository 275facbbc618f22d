"""Statistics of the step before, in place of those of this step."""

import copy
from math import exp

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from learned_opt import LearnedOptimizer, RuleConfig, UpdateRule
from learned_opt.head import MAX_LOG_GAIN
from learned_opt.serial import from_json, to_json

SHAPES = [(6, 5), (4,), ()]


@pytest.fixture
def rule() -> UpdateRule:
    return UpdateRule(RuleConfig(statistics="delayed"))


def draw(seed: int, *, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def test_unknown_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="statistics 'late' are unknown; expected one of current, delayed"):
        RuleConfig(statistics="late")


def test_configurations_from_before_mean_the_current_ones() -> None:
    assert "statistics" not in to_json(RuleConfig())
    assert from_json(RuleConfig, to_json(RuleConfig()), "rule").statistics == "current"
    delayed = RuleConfig(statistics="delayed")
    assert from_json(RuleConfig, to_json(delayed), "rule") == delayed


@pytest.mark.parametrize("scale", ["adam", "none"])
def test_the_start_is_adam(scale) -> None:
    rule = UpdateRule(RuleConfig(scale=scale, epsilon=0.0, statistics="delayed"))
    meta = rule.init_meta(dtype=torch.float64)
    params = draw(0)
    twins = [nn.Parameter(param.clone()) for param in params]
    adam = torch.optim.Adam(twins, 1e-2, eps=0.0)
    state = rule.init_state(params, dtype=torch.float64)
    for step in range(20):
        grads = draw(step + 1)
        directions, state = rule.update(meta, state, grads, params)
        params = [param - 1e-2 * direction for param, direction in zip(params, directions, strict=True)]
        for twin, grad in zip(twins, grads, strict=True):
            twin.grad = grad
        adam.step()
        for param, twin in zip(params, twins, strict=True):
            torch.testing.assert_close(param, twin.detach(), rtol=1e-9, atol=1e-12)


def test_a_tensor_has_the_gain_that_its_last_direction_asked_for(trained) -> None:
    """With a head that is told of no size, so that the directions differ by their gains alone."""
    plain, delayed = (
        UpdateRule(RuleConfig(scale="none", epsilon=0.0)),
        UpdateRule(RuleConfig(scale="rms", epsilon=0.0, statistics="delayed")),
    )
    meta = trained(plain, dtype=torch.float64)
    heads = plain.memory.heads
    meta["head.input_weight"][:, -heads:] = meta["head.input_weight"][:, 2 * heads, None] = 0
    params = draw(0)
    states = [each.init_state(params, dtype=torch.float64) for each in (plain, delayed)]
    before = [1.0] * len(params)
    for step in range(5):
        grads = draw(step + 1)
        raw, states[0] = plain.update(meta, states[0], grads, params)
        scaled, states[1] = delayed.update(meta, states[1], grads, params)
        for one, other, rms in zip(raw, scaled, before, strict=True):
            torch.testing.assert_close(other, one * min(1 / rms, exp(MAX_LOG_GAIN)))
        before = [float(direction.square().mean().sqrt()) for direction in raw]


def test_the_head_is_told_of_the_averages_of_the_last_step(rule, trained) -> None:
    meta, params = trained(rule, dtype=torch.float64), draw(0)
    state = rule.init_state(params, dtype=torch.float64)
    _, state = rule.update(meta, state, draw(1), params)
    found, _ = rule.update(meta, state, draw(2), params)
    other = {**state, "statistics": state["statistics"] + 1.0}
    changed, _ = rule.update(meta, other, draw(2), params)
    assert all((one != two).any() for one, two in zip(found, changed, strict=True))
    assert state["statistics"].shape == (rule.memory.heads + 3, len(params))


def test_tensors_that_stay_keep_their_statistics(rule, trained) -> None:
    meta, params = trained(rule, dtype=torch.float64), draw(0)
    state = rule.init_state(params, dtype=torch.float64)
    _, before = rule.update(meta, state, draw(1), params)
    grads = draw(2)
    grads[1][0] = float("nan")
    _, after = rule.update(meta, before, grads, params)
    assert torch.equal(after["statistics"][:, 1], before["statistics"][:, 1])
    assert (after["statistics"][:, [0, 2]] != before["statistics"][:, [0, 2]]).any()
    _, still = rule.update(meta, state, [torch.zeros_like(grad) for grad in grads], params)
    assert not still["statistics"].any()


def test_populations_share_the_definition(rule, trained) -> None:
    """As meta-training does it: steps counted for all tensors together, mapped over members."""
    meta, params = trained(rule, dtype=torch.float64), draw(0)
    one = rule.init_state(params, dtype=torch.float64, pooled=True)
    many = {key: torch.stack([tensor, tensor]) for key, tensor in one.items()}
    update = vmap(rule.update, in_dims=(None, 0, 0, 0))
    stacked = [torch.stack([param, param + 1]) for param in params]
    for step in range(3):
        grads = [torch.stack(pair) for pair in zip(draw(step), draw(step + 9), strict=True)]
        directions, many = update(meta, many, grads, stacked)
        wanted, one = rule.update(meta, one, [grad[0] for grad in grads], params)
        for direction, each in zip(directions, wanted, strict=True):
            torch.testing.assert_close(direction[0], each)
        torch.testing.assert_close(many["statistics"][0], one["statistics"])


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_a_run_goes_on_from_its_state_dict_to_the_same_bits(rule, trained, backend) -> None:
    options = {"rule": rule, "meta": trained(rule), "backend": backend}
    params = [nn.Parameter(param) for param in draw(0, dtype=torch.float32)]
    optimizer = LearnedOptimizer(params, 1e-2, **options)

    def train(params, optimizer, steps) -> None:
        for step in steps:
            for param, grad in zip(params, draw(step, dtype=torch.float32), strict=True):
                param.grad = grad
            optimizer.step()

    train(params, optimizer, range(1, 4))
    twins = [nn.Parameter(param.detach().clone()) for param in params]
    again = LearnedOptimizer(twins, 1e-2, **options)
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["state"][0]["statistics"].shape == (rule.floats_per_tensor,)
    again.load_state_dict(saved)
    train(params, optimizer, range(4, 7))
    train(twins, again, range(4, 7))
    for param, twin in zip(params, twins, strict=True):
        assert torch.equal(param, twin)
        assert torch.equal(optimizer.state[param]["statistics"], again.state[twin]["statistics"])
    del saved["state"][1]["statistics"]
    with pytest.raises(ValueError, match=r"holds step, skipped, memory; expected .*statistics"):
        again.load_state_dict(saved)
