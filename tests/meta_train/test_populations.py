import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch

from learned_opt import Checkpoint, LearnedOptimizer, RuleConfig, UpdateRule
from learned_opt.memory import LSTMConfig
from meta_train import populations
from meta_train.compiler import missing_for_compilation
from meta_train.entries import learned_entry
from meta_train.populations import LearnedPopulationFactory, MappedPopulation, NativePopulation
from tasks import get_task
from tasks.benchmark.running.alone import run_cell
from tasks.benchmark.running.cell import Cell
from tasks.benchmark.running.population import run_group

RULE = UpdateRule(RuleConfig(hidden=3))
CHECKPOINT = Checkpoint(
    RULE.config,
    {name: tensor + 0.1 for name, tensor in RULE.init_meta(seed=0).items()},
    {},
)
RATES = (1e-3, 1e-2, 0.1)
STEPS = 5


def stack(members: int = len(RATES)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (4, 3), "bias": (4,), "scale": ()}
    return {name: torch.randn(members, *shape, generator=generator) for name, shape in shapes.items()}


def advance(population: MappedPopulation | NativePopulation, params: dict[str, torch.Tensor]) -> None:
    """Steps on gradients that depend on the weights, one of them not finite."""
    for step in range(STEPS):
        grads = {name: torch.sin(3 * tensor) for name, tensor in params.items()}
        if step == 2:
            grads["bias"][1, 0] = grads["weight"][1, 0, 0] = torch.inf
        population.step(grads, torch.tensor(RATES) * (1 - 0.1 * step), torch.zeros(len(RATES)))


def advance_alone(member: int, rule: UpdateRule, weight_decay: float = 0.0) -> dict[str, torch.Tensor]:
    params = {name: tensor[member].clone().requires_grad_() for name, tensor in stack().items()}
    optimizer = LearnedOptimizer(
        params.items(),
        RATES[member],
        rule=rule,
        meta=CHECKPOINT.meta,
        weight_decay=weight_decay,
        backend="eager",
    )
    for step in range(STEPS):
        for name, tensor in params.items():
            tensor.grad = torch.sin(3 * tensor.detach())
            if (step, member) == (2, 1) and name in ("bias", "weight"):
                tensor.grad.view(-1)[0] = torch.inf
        optimizer.param_groups[0]["lr"] = RATES[member] * (1 - 0.1 * step)
        if (step, member) == (2, 1):
            with pytest.warns(UserWarning, match="not finite"):
                optimizer.step()
        else:
            optimizer.step()
    return params


def require_close_to_alone(
    params: dict[str, torch.Tensor],
    rule: UpdateRule = RULE,
    weight_decay: float = 0.0,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-6,
) -> None:
    for member in range(len(RATES)):
        for name, expected in advance_alone(member, rule, weight_decay).items():
            torch.testing.assert_close(params[name][member], expected.detach(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("block", [1, 2 * 17, 2**17])
def test_members_move_as_the_optimizer_alone_moves_each(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(populations, "BLOCK_ELEMENTS", block)
    params = stack()
    population = MappedPopulation(CHECKPOINT, params, steps=STEPS)
    assert not population.compiled
    advance(population, params)
    require_close_to_alone(params)


@pytest.mark.parametrize("kind", [MappedPopulation, LearnedPopulationFactory])
@pytest.mark.parametrize("changes", [{}, {"spectral": True, "vectors": "adam"}])
def test_orthogonal_directions_are_those_of_the_optimizer_alone(kind, changes) -> None:
    checkpoint = replace(CHECKPOINT, config=replace(RULE.config, orthogonal=True, **changes))
    params = stack()
    make = partial(kind, checkpoint) if kind is MappedPopulation else kind(checkpoint)
    advance(make(params, steps=STEPS), params)
    # Small singular values, and with them rounding, grow in the iterations.
    require_close_to_alone(params, UpdateRule(checkpoint.config), rtol=1e-3, atol=1e-4)
    plain = stack()
    advance(MappedPopulation(CHECKPOINT, plain, steps=STEPS), plain)
    assert not torch.allclose(params["weight"], plain["weight"], rtol=1e-2)


@pytest.mark.parametrize("kind", [MappedPopulation, LearnedPopulationFactory])
@pytest.mark.parametrize("orthogonal", [False, True])
def test_weights_decay_as_those_of_the_optimizer_alone(kind, orthogonal) -> None:
    checkpoint = replace(CHECKPOINT, config=replace(RULE.config, orthogonal=orthogonal))
    params, decay = stack(), 2.0
    if kind is MappedPopulation:
        population = MappedPopulation(checkpoint, params, steps=STEPS, weight_decay=decay)
    else:
        population = LearnedPopulationFactory(checkpoint, decay)(params, steps=STEPS)
    advance(population, params)
    require_close_to_alone(params, UpdateRule(checkpoint.config), decay, rtol=1e-3, atol=1e-4)
    kept = stack()
    advance(MappedPopulation(checkpoint, kept, steps=STEPS), kept)
    assert not torch.allclose(params["weight"][2], kept["weight"][2], rtol=1e-2)


@pytest.mark.skipif(missing_for_compilation() is not None, reason="no compiler on this machine")
@pytest.mark.slow
def test_large_and_long_ones_are_compiled_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(populations, "BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(populations, "COMPILED_STEPS", STEPS)
    params = stack()
    population = MappedPopulation(CHECKPOINT, params, steps=STEPS)
    assert population.compiled
    advance(population, params)
    require_close_to_alone(params)


def test_learned_entries_advance_together_as_alone() -> None:
    entry = learned_entry("mine", CHECKPOINT)
    task = get_task("digits-mlp-32", seed=0)
    cells = [Cell(task.name, "mine", schedule, 1e-3, 0, 8) for schedule in ("constant", "cosine")]
    together = run_group(task, entry, cells)
    for ours, alone in zip(together, (run_cell(task, entry, cell) for cell in cells), strict=True):
        assert ours.status == alone.status == "finished"
        torch.testing.assert_close(torch.tensor(ours.curve), torch.tensor(alone.curve), rtol=1e-4, atol=1e-5)


def test_a_member_that_diverges_leaves_the_others_as_they_are_to_the_bit() -> None:
    entry = learned_entry("mine", CHECKPOINT)
    task = get_task("digits-mlp-32", seed=0)
    curves = []
    for middle in (1e4, 1e-2):
        rates = (1e-3, middle, 3e-3)
        results = run_group(task, entry, [Cell(task.name, "mine", "constant", rate, 0, 10) for rate in rates])
        assert results[1].diverged == (middle == 1e4)
        curves.append([results[index].curve.tobytes() for index in (0, 2)])
    assert curves[0] == curves[1]


def test_the_factory_survives_the_way_to_another_process() -> None:
    factory = pickle.loads(pickle.dumps(LearnedPopulationFactory(CHECKPOINT)))
    params = stack()
    advance(factory(params, steps=STEPS), params)
    require_close_to_alone(params)


@pytest.mark.skipif(missing_for_compilation() is not None, reason="no compiler on this machine")
def test_rules_with_a_native_step_advance_natively_and_others_mapped() -> None:
    native = LearnedPopulationFactory(CHECKPOINT)(stack(), steps=STEPS)
    assert isinstance(native, NativePopulation)
    config = RuleConfig(memory=LSTMConfig(), hidden=3)
    other = Checkpoint(config, UpdateRule(config).init_meta(seed=0), {})
    assert isinstance(LearnedPopulationFactory(other)(stack(), steps=STEPS), MappedPopulation)
