import math

import pytest
import torch

from learned_opt.architecture import RuleConfig
from learned_opt.rule import UpdateRule
from meta_train.flat import flatten, unflatten
from meta_train.unroll import learning_rates, paired_step, shared_step, stack_batches, stack_params, unroll
from tasks import get_family, get_task

PAIRS, STEPS = 3, 5


def perturbed(rule, sigma=0.1, seed=0):
    like = rule.init_meta()
    vector = flatten(like)
    noise = sigma * torch.randn(2, PAIRS, vector.numel(), generator=torch.Generator().manual_seed(seed))
    return unflatten(vector + noise, like)


def alone(rule, task, meta, params, batches, lrs):
    """The definition, one member and one step at a time, with autograd and no vmap."""
    state = rule.init_state(list(params.values()), pooled=True)
    losses = []
    for t in range(STEPS):
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        loss = task.loss(leaves, tuple(part[t] for part in batches))
        grads = torch.autograd.grad(loss, list(leaves.values()))
        directions, state = rule.update(meta, state, grads, list(params.values()))
        params = {
            name: value - lrs[t] * move
            for (name, value), move in zip(params.items(), directions, strict=True)
        }
        losses.append(loss.detach())
    return params, torch.stack(losses)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_population_equals_its_members_alone(compiled):
    rule = UpdateRule()
    generator = torch.Generator().manual_seed(3)
    tasks = [get_family("digits-mlp-32").sample(generator) for _ in range(PAIRS)]
    starts = [task.init(generator) for task in tasks]
    batches = stack_batches([task.batches(generator, STEPS) for task in tasks], dim=1)
    lrs = torch.logspace(-3, -2, PAIRS).repeat(STEPS, 1)
    meta = perturbed(rule)
    both = {name: torch.stack([value, value]) for name, value in stack_params(starts).items()}
    blank = rule.init_state(list(starts[0].values()), pooled=True)
    state = {name: value.expand(2, PAIRS, *value.shape).clone() for name, value in blank.items()}
    step = paired_step(rule, tasks[0], compiled=compiled)
    with torch.no_grad():
        params, _, losses, distances = unroll(step, meta, both, state, batches, lrs)
    assert not distances.any()
    assert losses.shape == (STEPS, 2, PAIRS)
    for sign in range(2):
        for pair, task in enumerate(tasks):
            member = {name: value[sign, pair] for name, value in meta.items()}
            own = tuple(part[:, pair] for part in batches)
            expected, expected_losses = alone(rule, task, member, starts[pair], own, lrs[:, pair])
            torch.testing.assert_close(losses[:, sign, pair], expected_losses, rtol=2e-4, atol=2e-5)
            for name, value in expected.items():
                torch.testing.assert_close(params[name][sign, pair], value, rtol=1e-3, atol=2e-4)


def test_shared_meta_parameters_equal_repeated_ones():
    rule = UpdateRule()
    task = get_task("quadratic")
    meta = unflatten(flatten(rule.init_meta()) + 0.1, rule.init_meta())
    generators = [torch.Generator().manual_seed(seed) for seed in range(PAIRS)]
    starts = [task.init(generator) for generator in generators]
    batches = stack_batches([task.batches(generator, STEPS) for generator in generators], dim=1)
    lrs = torch.full((STEPS, PAIRS), 0.01)
    blank = rule.init_state(list(starts[0].values()), pooled=True)
    state = {name: value.expand(PAIRS, *value.shape).clone() for name, value in blank.items()}
    step = shared_step(rule, task, compiled=False)
    params = unroll(step, meta, stack_params(starts), state, batches, lrs).params
    for pair in range(PAIRS):
        own = tuple(part[:, pair] for part in batches)
        expected, _ = alone(rule, task, meta, starts[pair], own, lrs[:, pair])
        torch.testing.assert_close(params["x"][pair], expected["x"], rtol=1e-4, atol=1e-5)


def test_learning_rates_are_constant_or_a_half_cosine():
    peak, horizon = torch.tensor([2.0, 2.0]), torch.tensor([8.0, 8.0])
    cosine, start = torch.tensor([False, True]), torch.tensor([4.0, 4.0])
    lrs = learning_rates(peak, cosine, start, horizon, 4)
    expected = [1 + math.cos(math.pi * step / 8) for step in (4, 5, 6, 7)]
    torch.testing.assert_close(lrs[:, 0], torch.full((4,), 2.0))
    torch.testing.assert_close(lrs[:, 1], torch.tensor(expected))


def test_stacking_repeats_without_a_copy_what_members_repeat_without_one():
    repeated = [torch.randn(3, 2).expand(5, 3, 2) for _ in range(4)]
    fresh = [torch.randn(5, 2) for _ in range(4)]
    once, each = stack_batches(list(zip(repeated, fresh, strict=True)), dim=1)
    assert torch.equal(once, torch.stack(repeated, dim=1))
    assert torch.equal(each, torch.stack(fresh, dim=1))
    assert once.untyped_storage().nbytes() == 4 * 4 * 3 * 2
    mixed = [repeated[0], repeated[1].clone()]
    assert torch.equal(stack_batches([(part,) for part in mixed], dim=1)[0], torch.stack(mixed, dim=1))


class Descent:
    """The smallest rule."""

    config = RuleConfig()

    def update(self, meta, state, grads, params, *, total_steps):
        return list(grads), state


@pytest.mark.slow
def test_any_number_of_families_is_compiled_in_one_process():
    """They are maps of one function, to which a compiler grants but few graphs."""
    with torch._dynamo.config.patch(recompile_limit=1):
        for name in ("quadratic", "rastrigin-lois"):
            generator = torch.Generator().manual_seed(0)
            task = get_family(name).sample(generator)
            params = stack_params([task.init(generator)])
            batch = stack_batches([task.batch(generator)])
            step = shared_step(Descent(), task, compiled=True)
            moved, _, loss, _ = step({}, params, {}, batch, (), torch.full((1,), 0.1), torch.ones(1))
            assert loss.isfinite().all()
            assert not torch.equal(moved["x"], params["x"])
