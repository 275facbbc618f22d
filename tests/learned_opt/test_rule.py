import copy
import pickle
from dataclasses import replace
from math import log

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.testing import assert_close

from learned_opt import FLTConfig, MomentsConfig, RuleConfig, UpdateRule
from learned_opt.architecture import LEAN, SHAPED
from learned_opt.layout import Layout
from learned_opt.memory import MemoryConfig
from learned_opt.tokens import features_of_shape
from tests.learned_opt.memories import CONFIGS

SHAPES = [(6, 4), (5,), (), (2, 3, 2), (1, 3)]
RULES = {
    **{name: RuleConfig(memory=memory) for name, memory in CONFIGS.items()},
    "flt-rms": RuleConfig(scale="rms"),
    "flt-none": RuleConfig(scale="none"),
    "lean": LEAN,
    "shaped": SHAPED,
}
every_rule = pytest.mark.parametrize("config", RULES.values(), ids=RULES)


def draw(seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def run(rule, meta, gradients, params, *, dtype=torch.float32):
    """Directions at each step, and the last state."""
    state = rule.init_state(params, dtype=dtype)
    directions = []
    for grads in gradients:
        direction, state = rule.update(meta, state, grads, params)
        directions.append(direction)
    return directions, state


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("memory", CONFIGS.values(), ids=CONFIGS)
def test_at_initialisation_it_is_adam(vit_gradients, memory: MemoryConfig, dtype, tolerance) -> None:
    adam_rule = UpdateRule(RuleConfig(memory=memory, scale="none", epsilon=0.0))
    initial, gradients = vit_gradients
    params = [tensor.to(dtype) for tensor in initial]
    adams = [tensor.clone().requires_grad_() for tensor in params]
    optimizer = torch.optim.Adam(adams, lr=1e-3, eps=0.0)
    meta, state = adam_rule.init_meta(dtype=dtype), adam_rule.init_state(params, dtype=dtype)
    for grads in gradients:
        grads = [grad.to(dtype) for grad in grads]
        for adam, grad in zip(adams, grads, strict=True):
            adam.grad = grad.clone()
        optimizer.step()
        directions, state = adam_rule.update(meta, state, grads, params)
        params = [param - 1e-3 * step for param, step in zip(params, directions, strict=True)]
    for start, first, param, adam in zip(initial, gradients[0], params, adams, strict=True):
        defined = first != 0  # Adam with epsilon 0 is 0 / 0 where its first gradient is exactly 0
        moved = (adam.detach() - start)[defined].norm()
        assert defined.sum() >= defined.numel() - 1
        assert moved > 1e-3
        assert (param - adam.detach())[defined].norm() <= tolerance * moved


@pytest.mark.parametrize("orthogonal", [False, True])
def test_vectors_have_powers_and_a_gain_of_their_own(trained, orthogonal) -> None:
    config = RuleConfig(shapes=True, orthogonal=orthogonal)
    rule = UpdateRule(config)
    meta, params, gradients = trained(rule), draw(0), [draw(1), draw(2)]
    before, _ = run(rule, meta, gradients, params)
    for name, change in (("vector_exponent", 0.3), ("shape_gain", torch.tensor([0.5, 0.0]))):
        other = {**meta, f"head.{name}": meta[f"head.{name}"] + change}
        after, _ = run(rule, other, gradients, params)
        for param, one, two in zip(params, before[-1], after[-1], strict=True):
            ratio = two / one
            assert_close(ratio, ratio.flatten()[0].expand_as(ratio))
            assert (param.ndim < 2) == bool((ratio - 1).abs().max() > 1e-3)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (1, 0, 4, 2, 3), (2, 1), (3,)])
@pytest.mark.parametrize("pooled", [False, True])
def test_vectors_may_go_by_adam_and_matrices_by_what_was_learned(trained, order, pooled) -> None:
    rules = [UpdateRule(replace(LEAN, vectors=vectors)) for vectors in ("adam", "learned")]
    meta = trained(rules[0])
    learned, adam = dict(meta), []
    initial = {**rules[1].init_meta(), "head.shape_gain": meta["head.shape_gain"]}
    params = [draw(0)[index] for index in order]
    states = [rule.init_state(params, pooled=pooled) for rule in (*rules, rules[1])]
    for seed in range(1, 6):
        grads = [draw(seed)[index] for index in order]
        if seed == 3:
            grads[-1] = grads[-1] * torch.inf
        found, states[0] = rules[0].update(meta, states[0], grads, params)
        learned, states[1] = rules[1].update(meta, states[1], grads, params)
        adam, states[2] = rules[1].update(initial, states[2], grads, params)
        for param, mixed, own, theirs in zip(params, found, learned, adam, strict=True):
            if param.ndim < 2 and seed == 1:  # what is learned has its gain from the second step on only
                told = torch.tensor([features_of_shape(param.shape)]).mT
                theirs = theirs * rules[0].gain_of_vectors(meta, told).exp().squeeze()
            assert_close(mixed, own if param.ndim > 1 else theirs)
    layout = Layout.of(params, pooled=pooled)
    for key, rows in states[0].items():
        assert rows.shape == states[1][key].shape
        if key == "memory":
            pieces = [layout.split(state[key]) for state in states]
        else:
            shared = pooled and key != "statistics"
            pieces = [state[key].expand(len(params)) if shared else state[key].unbind(-1) for state in states]
        for param, mixed, own, theirs in zip(params, *pieces, strict=True):
            assert_close(mixed, own if param.ndim > 1 else theirs)


@pytest.mark.parametrize("statistics", ["current", "delayed"])
def test_vectors_by_adam_have_a_gain(trained, statistics) -> None:
    rule = UpdateRule(replace(SHAPED, statistics=statistics))
    meta, gradients = trained(rule), [[0 * grad for grad in draw(0)], *(draw(seed) for seed in range(1, 4))]
    meta["head.shape_gain"] = torch.tensor([log(3.0)])
    found, _ = run(rule, meta, gradients, draw(0))
    adam, _ = run(rule, rule.init_meta(), gradients, draw(0))
    for steps, theirs in zip(found, adam, strict=True):
        for direction, each in zip(steps, theirs, strict=True):
            if direction.ndim < 2:
                assert_close(direction, 3.0 * each)


@every_rule
def test_zero_gradients_give_zero_directions(config, trained) -> None:
    rule = UpdateRule(config)
    zeros = [torch.zeros(shape) for shape in SHAPES]
    directions, _ = run(rule, trained(rule), [zeros] * 3, draw(0))
    assert all(not direction.any() for step in directions for direction in step)


@every_rule
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_the_loss_does_not_matter(config, trained, factor) -> None:
    rule = UpdateRule(config)
    meta, params = trained(rule), draw(0)
    gradients = [[1e-3 * grad for grad in draw(seed)] for seed in range(1, 21)]
    scaled = [[factor * grad for grad in grads] for grads in gradients]
    plain, _ = run(rule, meta, gradients, params)
    other, _ = run(rule, meta, scaled, params)
    for a, b in zip(plain[-1], other[-1], strict=True):
        assert (a - b).norm() <= 1e-4 * a.norm()


@every_rule
def test_the_direction_flips_with_the_gradient_history(config, trained) -> None:
    rule = UpdateRule(config)
    meta, params = trained(rule), draw(0)
    gradients = [draw(seed) for seed in range(1, 11)]
    plain, _ = run(rule, meta, gradients, params)
    flipped, _ = run(rule, meta, [[-grad for grad in grads] for grads in gradients], params)
    for a, b in zip(plain[-1], flipped[-1], strict=True):
        assert_close(a, -b)


@every_rule
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_gradient_that_is_not_finite_is_left_out(config, trained, bad) -> None:
    rule = UpdateRule(config)
    meta, params = trained(rule), draw(0)
    _, state = run(rule, meta, [draw(1), draw(2)], params)
    grads = draw(3)
    grads[1][2] = bad
    directions, after = rule.update(meta, state, grads, params)
    columns = slice(24, 29)
    assert torch.equal(after["memory"][:, columns], state["memory"][:, columns])
    assert not directions[1].any()
    assert after["step"].tolist() == [3, 2, 3, 3, 3]
    assert after["skipped"].tolist() == [0, 1, 0, 0, 0]

    untouched, clean = rule.update(meta, state, draw(3), params)
    for i in (0, 2, 3, 4):
        assert torch.equal(directions[i], untouched[i])
    assert torch.equal(after["memory"][:, :24], clean["memory"][:, :24])


@every_rule
def test_a_population_is_its_members_one_by_one(config, trained) -> None:
    rule = UpdateRule(config)
    metas = [trained(rule, seed=seed, dtype=torch.float64) for seed in range(3)]
    params = [draw(10 + member, torch.float64) for member in range(3)]
    gradients = [[draw(100 * member + step, torch.float64) for step in range(5)] for member in range(3)]

    def stack(items):
        return [torch.stack(members) for members in zip(*items, strict=True)]

    meta = {name: torch.stack([member[name] for member in metas]) for name in metas[0]}
    states = [rule.init_state(member, dtype=torch.float64) for member in params]
    state = {name: torch.stack([member[name] for member in states]) for name in states[0]}
    for step in range(5):
        grads = stack([member[step] for member in gradients])
        together, state = vmap(rule.update)(meta, state, grads, stack(params))
    for member in range(3):
        alone, last = run(rule, metas[member], gradients[member], params[member], dtype=torch.float64)
        for a, b in zip(alone[-1], together, strict=True):
            assert_close(b[member], a, rtol=1e-11, atol=1e-12)
        assert_close(state["memory"][member], last["memory"], rtol=1e-11, atol=1e-12)


@every_rule
def test_tensors_do_not_see_each_other(config, trained) -> None:
    rule = UpdateRule(config)
    meta, params = trained(rule, dtype=torch.float64), draw(0, torch.float64)
    gradients = [draw(seed, torch.float64) for seed in range(1, 6)]
    together, _ = run(rule, meta, gradients, params, dtype=torch.float64)
    for i, param in enumerate(params):
        alone, _ = run(rule, meta, [[grads[i]] for grads in gradients], [param], dtype=torch.float64)
        assert_close(alone[-1][0], together[-1][i], rtol=1e-11, atol=1e-12)


def test_pooled_state_skips_all_tensors_together(trained) -> None:
    rule = UpdateRule()
    params, grads = draw(0), draw(1)
    grads[0][0, 0] = float("nan")
    directions, state = rule.update(trained(rule), rule.init_state(params, pooled=True), grads, params)
    assert state["step"].tolist() == [0]
    assert state["skipped"].tolist() == [1]
    assert not any(direction.any() for direction in directions)


@every_rule
def test_grafted_directions_have_the_size_of_their_scale(config, trained) -> None:
    config = replace(config, statistics="current", vectors="learned")  # delayed ones give a size later
    rule = UpdateRule(config)
    meta, params = trained(rule), draw(0)
    for name in {"head.rms_exponent", "head.vector_exponent", "head.shape_gain"} & meta.keys():
        meta[name].zero_()
    gradients = [draw(seed) for seed in range(1, 6)]
    directions, _ = run(rule, meta, gradients, params)
    if config.scale == "none":
        return
    plain_rule = UpdateRule(RuleConfig(memory=config.memory, scale="none"))
    start = plain_rule.init_meta() | {name: v for name, v in meta.items() if name.startswith("memory.")}
    adams, _ = run(plain_rule, start, gradients, params)
    for direction, adam in zip(directions[-1], adams[-1], strict=True):
        expected = adam.square().mean().sqrt() if config.scale == "adam" else torch.ones(())
        assert_close(direction.square().mean().sqrt(), expected, rtol=1e-4, atol=0)


def test_floats_per_parameter() -> None:
    assert UpdateRule().floats_per_parameter == 8
    assert UpdateRule(RuleConfig(memory=MomentsConfig())).floats_per_parameter == 4
    assert (
        UpdateRule(RuleConfig(memory=FLTConfig(wave_betas=(), wave_frequencies=()))).floats_per_parameter == 4
    )


def test_masks_of_the_rule_are_its_memorys() -> None:
    rule = UpdateRule()
    lags = torch.arange(10.0)
    assert torch.equal(rule.masks(rule.init_meta(), lags), rule.memory.masks(rule.init_meta(), lags))


def test_the_seed_draws_the_hidden_layers() -> None:
    rule = UpdateRule()
    assert torch.equal(
        rule.init_meta(seed=1)["head.input_weight"], rule.init_meta(seed=1)["head.input_weight"]
    )
    assert not torch.equal(
        rule.init_meta(seed=1)["head.input_weight"], rule.init_meta(seed=2)["head.input_weight"]
    )


def test_a_rule_is_its_configuration() -> None:
    rule = UpdateRule(RuleConfig(hidden=3))
    assert pickle.loads(pickle.dumps(rule)).config == rule.config
    assert copy.deepcopy(rule).config == rule.config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden=0"),
        ({"directions": -1}, "directions=-1"),
        ({"scale": "lamb"}, "'lamb' is unknown"),
        ({"vectors": "sgd"}, "vectors go by 'sgd'"),
        ({"epsilon": -1.0}, "epsilon is -1.0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
    ],
)
def test_configurations_that_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        RuleConfig(**options)


def test_meta_parameters_that_are_refused() -> None:
    rule = UpdateRule()
    meta = rule.init_meta()
    rule.check_meta(meta)
    with pytest.raises(ValueError, match=r"'head.input_bias' is missing"):
        rule.check_meta({name: v for name, v in meta.items() if name != "head.input_bias"})
    with pytest.raises(ValueError, match="'foreign' is unknown"):
        rule.check_meta(meta | {"foreign": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'head.input_bias' has shape \(3,\); expected \(12,\)"):
        rule.check_meta(meta | {"head.input_bias": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"'head.input_bias' holds nan; expected finite floats"):
        rule.check_meta(meta | {"head.input_bias": torch.full((12,), float("nan"))})
    with pytest.raises(ValueError, match=r"'head.input_bias' is torch.int64; expected floats"):
        rule.check_meta(meta | {"head.input_bias": torch.zeros(12, dtype=torch.int64)})
