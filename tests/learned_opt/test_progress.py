"""Rules that are told how many steps there will be."""

import copy

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from learned_opt import LearnedOptimizer, RuleConfig, UpdateRule, functional
from learned_opt.backends import get_backend
from learned_opt.progress import FEATURES, annealed, progress_features
from learned_opt.serial import from_json, to_json

CONFIG = RuleConfig(scale="none", progress=True, default_lr=0.5)
SHAPES = [(4, 3), (5,), ()]


def gradients(count: int, dtype: torch.dtype = torch.float32) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES] for _ in range(count)]


def blank() -> list[Tensor]:
    return [torch.ones(shape, requires_grad=True) for shape in SHAPES]


def go(optimizer: LearnedOptimizer, params: list[Tensor], steps: list[list[Tensor]]) -> list[Tensor]:
    for grads in steps:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        optimizer.step()
    return [param.detach().clone() for param in params]


@pytest.fixture
def build(trained):
    rule = UpdateRule(CONFIG)
    meta = trained(rule)

    def make(params, **options) -> LearnedOptimizer:
        return LearnedOptimizer(params, **{"rule": rule, "meta": meta, "total_steps": 10, **options})

    return make


def test_features_are_bounded_and_stay_at_their_end() -> None:
    steps = torch.arange(1.0, 1201.0)
    for total in (1, 200, 1000, 10**7):
        features = progress_features(steps, total)
        assert features.shape == (FEATURES, 1200)
        assert features.abs().max() <= 1
        assert features[0, 0] == -1
        assert annealed(steps, total)[0] == 1
    features = progress_features(steps, 1000)
    assert_close(features[:, 1000:], features[:, 1000:1001].expand(-1, 200), rtol=0, atol=0)
    assert annealed(steps, 1000)[1000:].abs().max() < 1e-6
    assert (annealed(steps, 1000)[:1000].diff() < 0).all()


def test_it_starts_as_adam_with_a_half_cosine() -> None:
    rule = UpdateRule(RuleConfig(scale="none", progress=True, epsilon=0.0))
    params, twins = blank(), blank()
    ours = LearnedOptimizer(params, 0.1, rule=rule, meta=rule.init_meta(), total_steps=30)
    adam = torch.optim.Adam(twins, lr=0.1, eps=0.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 30)
    for grads in gradients(30):
        go(ours, params, [grads])
        for twin, grad in zip(twins, grads, strict=True):
            twin.grad = grad.clone()
        adam.step()
        scheduler.step()
    assert_close(params, twins, rtol=1e-4, atol=1e-5)
    ends = [param.detach().clone() for param in params]
    assert_close(go(ours, params, gradients(3)), ends, rtol=0, atol=1e-6)


def test_without_a_learning_rate_it_takes_the_rules_own(build) -> None:
    assert build(blank()).param_groups[0]["lr"] == 0.5
    assert build(blank(), lr=0.1).param_groups[0]["lr"] == 0.1
    plain = UpdateRule()
    assert LearnedOptimizer(blank(), rule=plain, meta=plain.init_meta()).param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize("total_steps", [0, -3, 1.5, True, "10"])
def test_what_is_no_number_of_steps_is_refused(build, total_steps) -> None:
    with pytest.raises(ValueError, match=r"total_steps is .*; expected a whole number of at least 1"):
        build(blank(), total_steps=total_steps)


def test_a_missing_number_of_steps_is_named(build) -> None:
    with pytest.raises(ValueError, match="total_steps is missing"):
        build(blank(), total_steps=None)
    optimizer = build([{"params": blank(), "total_steps": 7}], total_steps=None)
    with pytest.raises(ValueError, match="total_steps is missing"):
        optimizer.add_param_group({"params": blank()})
    assert len(optimizer.param_groups) == 1
    rule = optimizer.rule
    with pytest.raises(ValueError, match="total_steps is None"):
        rule.update(rule.init_meta(), rule.init_state(blank()), gradients(1)[0], blank())


def test_a_number_of_steps_in_vain_is_refused(make) -> None:
    with pytest.raises(ValueError, match="total_steps is 5; expected none"):
        make(blank(), total_steps=5)


def test_it_resumes_to_the_same_bits_whatever_number_the_new_one_was_given(build) -> None:
    steps = gradients(12)
    params, halves = blank(), blank()
    whole = go(build(params), params, steps)
    before = build(halves)
    go(before, halves, steps[:5])
    after = build(halves, total_steps=99)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    assert after.param_groups[0]["total_steps"] == 10
    assert_close(go(after, halves, steps[5:]), whole, rtol=0, atol=0)


def test_a_state_dict_without_the_number_of_steps_is_refused(build) -> None:
    optimizer = build(blank())
    broken = copy.deepcopy(optimizer.state_dict())
    del broken["param_groups"][0]["total_steps"]
    with pytest.raises(ValueError, match="total_steps is missing"):
        optimizer.load_state_dict(broken)


def test_groups_have_numbers_of_their_own(build) -> None:
    steps = gradients(8)
    totals = (4, 8, 20)
    params = blank()
    together = build([{"params": [param], "total_steps": n} for param, n in zip(params, totals, strict=True)])
    ends = go(together, params, steps)
    for index, total in enumerate(totals):
        (alone,) = ([param] for param in [blank()[index]])
        expected = go(build(alone, total_steps=total), alone, [[grads[index]] for grads in steps])
        assert_close(ends[index], expected[0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(ends[1], go(build(twins := blank()), twins, steps)[1])


def test_the_usual_step_is_the_eager_one(build) -> None:
    steps, params, twins = gradients(6), blank(), blank()
    ours, theirs = build(params, backend="auto"), build(twins, backend="eager")
    assert_close(go(ours, params, steps), go(theirs, twins, steps), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_is_eager(trained) -> None:
    rule = UpdateRule(CONFIG)
    meta, params = trained(rule), [tensor.detach() for tensor in blank()]
    eager, fused = get_backend("eager")(rule), get_backend("compiled")(rule)
    expected, state, totals = rule.init_state(params), rule.init_state(params), torch.tensor([5.0, 9.0, 30.0])
    for grads in gradients(12):
        with torch.no_grad():
            wanted, expected = eager(meta, expected, grads, params, total_steps=totals)
            directions, state = fused(meta, state, grads, params, total_steps=totals)
        assert_close(directions, wanted, rtol=1e-4, atol=1e-5)
    assert_close(state, expected, rtol=1e-4, atol=1e-5)


def test_its_derivatives_are_those_of_central_differences(trained) -> None:
    rule = UpdateRule(CONFIG)
    meta = trained(rule, dtype=torch.float64)
    steps = gradients(5, torch.float64)

    def end(meta: dict[str, Tensor]) -> Tensor:
        params = {str(index): torch.ones(shape, dtype=torch.float64) for index, shape in enumerate(SHAPES)}
        state = functional.init_state(rule, params)
        for grads in steps:
            named = dict(zip(params, grads, strict=True))
            params, state = functional.update(rule, meta, state, named, params, lr=0.1, total_steps=6)
        return sum(param.square().sum() for param in params.values())

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
    end(leaves).backward()
    generator = torch.Generator().manual_seed(1)
    for name in ("head.schedule", "head.input_weight", "memory.log_decay_rate"):
        away = torch.randn(meta[name].shape, generator=generator, dtype=torch.float64)
        up, down = ({**meta, name: meta[name] + sign * 1e-6 * away} for sign in (1, -1))
        assert_close((leaves[name].grad * away).sum(), (end(up) - end(down)) / 2e-6, rtol=1e-5, atol=1e-8)
    assert leaves["head.schedule"].grad.abs().min() > 0


def test_files_of_before_do_not_know_of_it() -> None:
    assert {"progress", "default_lr"}.isdisjoint(to_json(RuleConfig()))
    assert from_json(RuleConfig, to_json(RuleConfig()), "rule") == RuleConfig()
    assert from_json(RuleConfig, to_json(CONFIG), "rule") == CONFIG
    assert "head.schedule" not in UpdateRule().init_meta()
    with pytest.raises(ValueError, match="default_lr is 0"):
        RuleConfig(default_lr=0.0)
