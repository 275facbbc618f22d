import dataclasses
import math

import pytest
import torch

from learned_opt.architecture import RuleConfig
from learned_opt.rule import UpdateRule
from meta_train.config import MetaTrainConfig
from meta_train.estimators import Perturbation, draw
from meta_train.flat import flatten, unflatten
from meta_train.objective import meta_loss
from meta_train.unit import REPORT, Moment, Unit
from meta_train.unroll import Expert

CONFIG = MetaTrainConfig(
    families=("quadratic",),
    pairs=3,
    truncation=5,
    horizon=(5, 12),
    validation=("digits-conv",),
    compiled=False,
)
LONGEST = Moment(12)


def unit_and_theta(expert: Expert | None = None, **changes) -> tuple[Unit, torch.Tensor]:
    config = dataclasses.replace(CONFIG, **changes)
    rule = UpdateRule(config.rule)
    like = rule.init_meta()
    return Unit(0, config.families[0], config, rule, like, expert=expert), flatten(like)


def perturbations(theta: torch.Tensor, seed: int, sigma: float = 0.3) -> tuple[Perturbation, Perturbation]:
    generator = torch.Generator().manual_seed(seed)
    both = []
    for _ in range(2):
        noise = draw(3, theta.numel(), sigma=sigma, generator=generator)
        both.append(Perturbation(noise, noise / sigma**2))
    return both[0], both[1]


def column(report: torch.Tensor, name: str) -> torch.Tensor:
    return report[:, REPORT.index(name)]


def alone(
    unit: Unit, theta: torch.Tensor, window, pair: int, sign: int, carried, renewed
) -> list[torch.Tensor]:
    """The definition: one member, one step after the other, autograd, no vmap; its weighed losses."""
    rule, task = UpdateRule(unit.config.rule), unit.episodes.tasks[0]
    params = {name: value[sign, pair] for name, value in unit.members.params.items()}
    state = {name: value[sign, pair] for name, value in unit.members.state.items()}
    held, values = carried, []
    for t in range(len(window.lrs)):
        if window.born[t, pair]:
            params = {name: value[pair] for name, value in window.starts.items()}
            state = rule.init_state(list(params.values()), pooled=True)
            held = renewed if t > 0 else carried
        meta = unflatten(theta + (1, -1)[sign] * held.noise[pair], unit.like)
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        loss = task.loss(leaves, tuple(part[t, pair] for part in window.batches))
        grads = torch.autograd.grad(loss, list(leaves.values()))
        directions, state = rule.update(
            meta, state, grads, list(params.values()), total_steps=window.totals[t, pair]
        )
        params = {
            name: value - window.lrs[t, pair] * move
            for (name, value), move in zip(params.items(), directions, strict=True)
        }
        values.append(window.weight[t, pair] * meta_loss(task, loss.detach(), compression=0.1))
    return values


@pytest.mark.parametrize("progress", [False, True])
def test_a_window_equals_its_members_alone_with_episodes_that_begin_inside(progress: bool) -> None:
    rule = RuleConfig(progress=progress)
    unit, theta = unit_and_theta(rule=rule)
    inside = 0
    for seed in range(6):
        carried, renewed = perturbations(theta, seed)
        replay, _ = unit_and_theta(rule=rule)
        saved = unit.state_dict()
        replay.load_state_dict(saved)
        window = replay.episodes.plan(LONGEST.longest)
        replay.load_state_dict(saved)
        expected = [
            [alone(replay, theta, window, pair, sign, carried, renewed) for sign in (0, 1)]
            for pair in range(3)
        ]
        report = unit.evolve(theta, carried, renewed, LONGEST)
        for pair in range(3):
            births = window.born[:, pair].nonzero().flatten().tolist()
            birth = births[0] if births and births[0] > 0 else 5
            inside += birth < 5
            plus, minus = expected[pair]
            before = sum(plus[:birth]) - sum(minus[:birth]) if birth else torch.zeros(())
            after = sum(plus[birth:]) - sum(minus[birth:]) if birth < 5 else torch.zeros(())
            torch.testing.assert_close(column(report, "before")[pair], before, rtol=1e-3, atol=2e-5)
            torch.testing.assert_close(column(report, "after")[pair], after, rtol=1e-3, atol=2e-5)
            assert column(report, "began")[pair] == (birth < 5)
        assert torch.equal(column(report, "over") > 0, unit.episodes.over)
    assert inside > 3


def test_pairs_share_their_start_and_their_tasks_change_with_episodes() -> None:
    unit, theta = unit_and_theta()
    still = Perturbation.none(3, theta.numel())
    ended = 0
    for _ in range(8):
        seeds, over = unit.episodes.seeds.clone(), unit.episodes.over
        report = unit.evolve(theta, still, still, LONGEST)
        begun = over | (column(report, "began") > 0)
        ended += int(begun.sum())
        assert torch.equal(seeds != unit.episodes.seeds, begun)
        assert torch.equal(unit.members.state["step"][0, :, 0], unit.episodes.step)
        assert torch.equal(*unit.members.params["x"])
        assert (unit.episodes.step <= unit.episodes.horizon).all()
    assert ended > 6


def test_a_member_that_blows_up_is_capped_counted_and_leaves_the_others_alone() -> None:
    runs = []
    for broken in (False, True):
        unit, theta = unit_and_theta(horizon=(40, 40))
        still = Perturbation.none(3, theta.numel())
        unit.evolve(theta, still, still, Moment(40))
        pair = int((unit.episodes.horizon - unit.episodes.step).argmax())
        if broken:
            unit.members.params["x"][0, pair] = float("inf")
        report = unit.evolve(theta, still, still, Moment(40))
        assert torch.isfinite(report).all()
        assert column(report, "diverged").tolist() == [int(broken and each == pair) for each in range(3)]
        runs.append(unit.members.params["x"][:, [each for each in range(3) if each != pair]])
    assert torch.equal(*runs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"estimator": "full-es"},
        {"estimator": "backprop"},
        {"loss_scale": "log-ratio", "objective": "final"},
        {"loss_split": "validation"},
    ],
)
def test_state_continues_to_the_same_bits(changes) -> None:
    units = [unit_and_theta(**changes)[0] for _ in range(2)]
    theta = unit_and_theta()[1]

    def advance(unit: Unit, seed: int) -> torch.Tensor:
        if changes.get("estimator") == "backprop":
            gradient, report = unit.backpropagate(theta, LONGEST)
            return torch.cat([gradient, report.flatten()])
        return unit.evolve(theta, *perturbations(theta, seed), LONGEST)

    for seed in range(2):
        advance(units[0], seed)
    units[1].load_state_dict(units[0].state_dict())
    for seed in range(4):
        assert torch.equal(advance(units[0], seed), advance(units[1], seed))


def test_backpropagation_through_a_window_equals_central_differences() -> None:
    """With task gradients differentiated too, in the directions of a few meta-parameters."""
    unit, theta = unit_and_theta(estimator="backprop", first_order=False, horizon=(7, 7))
    unit.backpropagate(theta, Moment(7))
    saved = unit.state_dict()
    gradient, _ = unit.backpropagate(theta, Moment(7))
    assert unit.episodes.step.max() < 7
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(theta.shape, generator=generator) * (gradient.abs() > 0)
    values = []
    for shift in (2e-3, -2e-3):
        unit.load_state_dict(saved)
        window, inside = unit._plan(Moment(7))
        meta = unflatten((theta + shift * direction).expand(1, 3, -1), unit.like)
        with torch.no_grad():
            _, weighed = unit._advance(
                window, lambda _, meta=meta: meta, unit.members, Moment(7), 0, len(inside)
            )
        values.append(weighed.double().sum().item() / 3)
    torch.testing.assert_close(
        (gradient @ direction).item(), (values[0] - values[1]) / 4e-3, rtol=3e-2, atol=1e-5
    )


def test_the_expert_at_hand_is_at_distance_nought_and_another_is_not() -> None:
    rule = UpdateRule()
    own = Expert(rule, rule.init_meta())
    other = Expert(rule, {name: value + 0.3 for name, value in rule.init_meta().items()})
    losses = {}
    for name, expert in (("none", None), ("own", own), ("other", other)):
        unit, theta = unit_and_theta(expert=expert)
        still = Perturbation.none(3, theta.numel())
        losses[name] = column(unit.evolve(theta, still, still, Moment(12, imitation=1.0)), "loss").mean()
    torch.testing.assert_close(losses["own"], losses["none"])
    assert losses["other"] > losses["own"] + 0.01


def test_validation_batches_measure_without_changing_the_path() -> None:
    paths = []
    for split in ("train", "validation"):
        unit, theta = unit_and_theta(
            families=("digits-mlp-32",), loss_split=split, truncation=2, horizon=(2, 4)
        )
        still = Perturbation.none(3, theta.numel())
        report = unit.evolve(theta, still, still, Moment(4))
        assert all(math.isfinite(loss) for loss in column(report, "loss"))
        paths.append(column(report, "loss"))
    assert not torch.allclose(*paths)
