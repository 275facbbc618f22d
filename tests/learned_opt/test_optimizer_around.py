"""What stands around an optimizer in a training loop: schedulers, scalers, clipping, averages of weights."""

import copy
import inspect

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import AdamW, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from learned_opt import LearnedOptimizer
from tests.learned_opt.training import backward, batch, loss_of, network, same, train, weights

SCHEDULERS = {
    "LambdaLR": {"lr_lambda": lambda step: 0.9**step},
    "MultiplicativeLR": {"lr_lambda": lambda step: 0.8},
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [2, 5]},
    "ConstantLR": {"factor": 0.5, "total_iters": 4},
    "LinearLR": {"start_factor": 0.1, "total_iters": 4},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {"total_iters": 8, "power": 2.0},
    "CosineAnnealingLR": {"T_max": 10},
    "CosineAnnealingWarmRestarts": {"T_0": 4},
    "OneCycleLR": {"max_lr": 0.02, "total_steps": 12, "cycle_momentum": False},
    "CyclicLR": {"base_lr": 1e-3, "max_lr": 1e-2, "step_size_up": 4, "cycle_momentum": False},
    "ReduceLROnPlateau": {"patience": 1},
    "SWALR": {"swa_lr": 0.003, "anneal_epochs": 4},
    "SequentialLR": {"milestones": [4]},
    "ChainedScheduler": {},
}
"""Each scheduler's arguments; the last two are given schedulers besides."""


def schedule(name: str, optimizer: torch.optim.Optimizer) -> LRScheduler:
    options = SCHEDULERS[name]
    if name in ("SequentialLR", "ChainedScheduler"):
        parts = [
            lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4),
            lr_scheduler.ExponentialLR(optimizer, 0.9),
        ]
        head = [optimizer] if name == "SequentialLR" else []
        return getattr(lr_scheduler, name)(*head, parts, **options)
    return (SWALR if name == "SWALR" else getattr(lr_scheduler, name))(optimizer, **options)


def follow(model, optimizer, scheduler, seeds: range) -> list[list[float]]:
    """Train, and return the learning rates of the groups after each step."""
    rates = []
    for seed in seeds:
        backward(model, seed)
        optimizer.step()
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
    return rates


def two_groups(model: nn.Module, *, tensors: bool) -> list[dict]:
    rates = [torch.tensor(rate) if tensors else rate for rate in (1e-2, 2e-3)]
    return [
        {"params": list(layer.parameters()), "lr": rate}
        for layer, rate in zip((model[0], model[2]), rates, strict=True)
    ]


def test_every_scheduler_of_torch_is_tried() -> None:
    family = {
        name
        for name, each in inspect.getmembers(lr_scheduler, inspect.isclass)
        if issubclass(each, LRScheduler) and not name.startswith("_") and each is not LRScheduler
    }
    assert set(SCHEDULERS) == family | {"SWALR"}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("tensors", [False, True], ids=["float lr", "tensor lr"])
def test_schedulers_drive_it_as_they_drive_adam(adam_rule, name, tensors) -> None:
    ours, theirs = network(), network()
    first = LearnedOptimizer(
        two_groups(ours, tensors=tensors), weight_decay=0.1, rule=adam_rule, meta=adam_rule.init_meta()
    )
    second = AdamW(two_groups(theirs, tensors=tensors), weight_decay=0.1, eps=0.0)
    rates = follow(ours, first, schedule(name, first), range(10))
    assert rates == follow(theirs, second, schedule(name, second), range(10))
    assert len({tuple(each) for each in rates}) > 1
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_resume_with_it(make, name) -> None:
    model = network()
    optimizer = make(two_groups(model, tensors=False))
    scheduler = schedule(name, optimizer)
    follow(model, optimizer, scheduler, range(5))
    saved = copy.deepcopy([each.state_dict() for each in (model, optimizer, scheduler)])

    resumed = network()
    second = make(two_groups(resumed, tensors=False))
    again = schedule(name, second)
    for each, state in zip((resumed, second, again), saved, strict=True):
        each.load_state_dict(state)
    assert follow(resumed, second, again, range(5, 10)) == follow(model, optimizer, scheduler, range(5, 10))
    assert same(weights(resumed), weights(model))


@pytest.mark.parametrize("options", [{}, {"backend": "eager"}, {"orthogonalize": True}], ids=str)
def test_autocast_does_not_reach_the_rule(make, options) -> None:
    inside, outside = network(), network()
    first, second = make(inside.parameters(), **options), make(outside.parameters(), **options)
    for seed in range(3):
        backward(inside, seed)
        backward(outside, seed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first.step()
        second.step()
    assert same(weights(inside), weights(outside))


def test_autocast_does_not_reach_a_step_under_autograd(make) -> None:
    start, moved = torch.linspace(-1, 1, 12).view(3, 4).requires_grad_(), []
    for enabled in (False, True):
        param = start.clone()
        optimizer = make([param], differentiable=True, orthogonalize=True)
        param.grad = start.sin()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            optimizer.step()
        moved.append(param)
    assert torch.equal(*moved)


def test_grad_scaler_unscales_and_skips(make) -> None:
    scaled, plain = network(), network()
    first, second = make(scaled.parameters()), make(plain.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for seed, factor in enumerate((1.0, float("inf"), 1.0)):
        before = weights(scaled)
        first.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(scaled, batch(seed))
        scaler.scale(factor * loss).backward()
        scaler.unscale_(first)
        clip_grad_norm_(scaled.parameters(), 0.1)
        scaler.step(first)
        scaler.update()
        if factor == 1.0:
            second.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(plain, batch(seed))
            loss.backward()
            clip_grad_norm_(plain.parameters(), 0.1)
            second.step()
        else:
            assert same(before, weights(scaled))
    assert same(weights(scaled), weights(plain))
    assert first.skipped_gradients() == {}


@pytest.mark.parametrize("clip", [clip_grad_norm_, clip_grad_value_])
@pytest.mark.parametrize("foreach", [False, True])
def test_it_steps_along_clipped_gradients(make, clip, foreach) -> None:
    clipped, given = network(), network()
    first, second = make(clipped.parameters()), make(given.parameters())
    for seed in range(5):
        backward(clipped, seed)
        unclipped = [param.grad.clone() for param in clipped.parameters()]
        clip(clipped.parameters(), 0.02, foreach=foreach)
        for param, other, grad in zip(clipped.parameters(), given.parameters(), unclipped, strict=True):
            assert not torch.equal(param.grad, grad)
            other.grad = param.grad.clone()
        first.step()
        second.step()
    assert same(weights(clipped), weights(given))


@pytest.mark.parametrize("set_to_none", [False, True])
def test_accumulated_gradients_are_those_of_the_whole_batch(make, set_to_none) -> None:
    parts, whole = network(), network()
    first, second = make(parts.parameters(), weight_decay=0.1), make(whole.parameters(), weight_decay=0.1)
    for seed in range(5):
        first.zero_grad(set_to_none=set_to_none)
        for piece in batch(seed).chunk(4):
            (loss_of(parts, piece) / 4).backward()
        first.step()
        train(whole, second, range(seed, seed + 1))
    for a, b in zip(weights(parts), weights(whole), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", [None, 0.8], ids=["swa", "ema"])
def test_averages_of_weights_follow_it_and_leave_it_alone(make, decay) -> None:
    averaged, plain = network(), network()
    first, second = make(averaged.parameters()), make(plain.parameters())
    average = AveragedModel(averaged, multi_avg_fn=get_ema_multi_avg_fn(decay) if decay else None)
    history = []
    for seed in range(6):
        train(averaged, first, range(seed, seed + 1))
        train(plain, second, range(seed, seed + 1))
        average.update_parameters(averaged)
        history.append(weights(averaged))
    assert same(weights(averaged), weights(plain))

    expected = history[0]
    for count, newest in enumerate(history[1:], start=1):
        kept = decay if decay else count / (count + 1)
        expected = [kept * old + (1 - kept) * new for old, new in zip(expected, newest, strict=True)]
    torch.testing.assert_close(weights(average.module), expected)


def test_averaged_weights_get_their_own_batch_statistics(make) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = make(model.parameters())
    average = AveragedModel(model)
    loader = [batch(seed) for seed in range(8)]
    before = loss_of(model.eval(), batch(100)).item()
    for inputs in loader:
        model.train().zero_grad()
        loss_of(model, inputs).backward()
        optimizer.step()
        average.update_parameters(model)
    update_bn(loader, average)
    expected = torch.stack([average.module[0](inputs).mean(0) for inputs in loader]).mean(0)
    torch.testing.assert_close(average.module[1].running_mean, expected.detach())
    assert loss_of(average.eval(), batch(100)).item() < before
