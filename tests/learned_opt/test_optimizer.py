import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from learned_opt import (
    FLT,
    CheckpointError,
    LearnedOptimizer,
    MomentsConfig,
    RuleConfig,
    UpdateRule,
    checkpoint,
)
from learned_opt import step as step_module


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def backward(model: nn.Module, seed: int) -> Tensor:
    """Fill the gradients from a batch that the seed draws."""
    param = next(model.parameters())
    batch = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed)).to(param.dtype)
    model.zero_grad()
    loss = (model(batch) - batch[:, :3]).square().mean()
    loss.backward()
    return loss.detach()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        backward(model, seed)
        optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    return [param.detach().clone() for param in model.parameters()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture
def make(trained):
    """An optimizer with a rule that is not Adam."""
    rule = UpdateRule()
    meta = trained(rule)

    def build(params, lr=1e-2, **options):
        return LearnedOptimizer(params, lr, **{"rule": rule, "meta": meta, **options})

    return build


def snapshot(optimizer: LearnedOptimizer) -> list[Tensor]:
    return [tensor.clone() for state in optimizer.state.values() for tensor in state.values()]


def test_at_initialisation_it_is_adam(adam_rule, vit_gradients) -> None:
    initial, gradients = vit_gradients
    ours, adams = ([tensor.clone().requires_grad_() for tensor in initial] for _ in range(2))
    optimizer = LearnedOptimizer(ours, 1e-3, rule=adam_rule, meta=adam_rule.init_meta())
    adam = torch.optim.Adam(adams, lr=1e-3, eps=0.0)
    for grads in gradients:
        for param, other, grad in zip(ours, adams, grads, strict=True):
            param.grad, other.grad = grad, grad.clone()
        optimizer.step()
        adam.step()
    for start, first, param, other in zip(initial, gradients[0], ours, adams, strict=True):
        defined = first != 0  # Adam with epsilon 0 is 0 / 0 where its first gradient is exactly 0
        moved = (other - start)[defined].norm()
        assert (param - other)[defined].norm() <= 1e-5 * moved


def test_weight_decay_is_adamws(adam_rule) -> None:
    ours, theirs = network(), network()
    groups = [
        {"params": [p], "weight_decay": 0.1 * i, "lr": 0.01 * (i + 1)}
        for i, p in enumerate(ours.parameters())
    ]
    others = [
        {"params": [p], "weight_decay": 0.1 * i, "lr": 0.01 * (i + 1)}
        for i, p in enumerate(theirs.parameters())
    ]
    train(ours, LearnedOptimizer(groups, rule=adam_rule, meta=adam_rule.init_meta()), range(20))
    train(theirs, torch.optim.AdamW(others, eps=0.0), range(20))
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("elements", [1, 30, 70])
def test_how_tensors_are_packed_does_not_matter(make, monkeypatch, elements) -> None:
    together, apart = network(), network()
    gradients = []
    for seed in range(10):
        backward(together, seed)
        gradients.append([param.grad.clone() for param in together.parameters()])

    def run(model: nn.Module) -> None:
        optimizer = make(model.parameters(), 1e-2, weight_decay=0.1)
        for grads in gradients:
            for param, grad in zip(model.parameters(), grads, strict=True):
                param.grad = grad
            optimizer.step()

    run(together)
    monkeypatch.setattr(step_module, "PACK_ELEMENTS", elements)
    run(apart)
    for a, b in zip(weights(together), weights(apart), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_maximize_climbs_what_minimize_descends(make) -> None:
    up, down = network(), network()
    climber, descender = make(up.parameters(), maximize=True), make(down.parameters())
    for seed in range(5):
        backward(down, seed)
        for param, other in zip(up.parameters(), down.parameters(), strict=True):
            param.grad = -other.grad
        climber.step()
        descender.step()
    assert same(weights(up), weights(down))


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)])
def test_a_learning_rate_of_zero_moves_nothing(make, lr) -> None:
    model = network()
    before = weights(model)
    train(model, make(model.parameters(), lr, weight_decay=0.1), range(5))
    assert same(before, weights(model))


def test_zero_gradients_move_nothing(make) -> None:
    model = network()
    before = weights(model)
    optimizer = make(model.parameters())
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert same(before, weights(model))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_learning_rate_is_read_at_each_step(make, shape) -> None:
    by_tensor, by_float = network(), network()
    lr = torch.full(shape, 1e-2)
    first, second = (
        make(by_tensor.parameters(), lr, weight_decay=0.1),
        make(by_float.parameters(), weight_decay=0.1),
    )
    train(by_tensor, first, range(3))
    train(by_float, second, range(3))
    lr.fill_(1e-3)
    second.param_groups[0]["lr"] = 1e-3
    train(by_tensor, first, range(3, 6))
    train(by_float, second, range(3, 6))
    for a, b in zip(weights(by_tensor), weights(by_float), strict=True):
        torch.testing.assert_close(a, b)


def test_closure_runs_with_gradients_and_its_loss_comes_back(make) -> None:
    model = network()
    optimizer = make(model.parameters())
    calls = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        calls.append(backward(model, 0))
        return calls[-1]

    with torch.no_grad():
        assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1
    assert optimizer.step() is None


def test_gradients_and_frozen_parameters_are_left_alone(make) -> None:
    model = network()
    model[0].bias.requires_grad_(False)
    optimizer = make(model.parameters(), maximize=True)
    assert model[0].bias not in optimizer.state
    backward(model, 0)
    model[2].bias.grad = None
    before = weights(model)
    grads = {param: param.grad.clone() for param in model.parameters() if param.grad is not None}
    optimizer.step()
    assert all(torch.equal(param.grad, grad) for param, grad in grads.items())
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [True, False, True, False]
    assert optimizer.state[model[2].bias]["step"] == 0

    model[0].bias.requires_grad_(True)
    backward(model, 1)
    optimizer.step()
    assert optimizer.state[model[0].bias]["step"] == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_parameters_of_other_dtypes_have_float32_memory(make, dtype) -> None:
    model = network(dtype)
    optimizer = make(model.parameters(), 1e-2, weight_decay=0.01)
    start = backward(model, 0)
    train(model, optimizer, range(30))
    assert backward(model, 0) < start
    for param in model.parameters():
        assert param.dtype == dtype
        assert {tensor.dtype for tensor in optimizer.state[param].values()} == {torch.float32}


def test_autocast_does_not_reach_the_rule(make) -> None:
    inside, outside = network(), network()
    first, second = make(inside.parameters()), make(outside.parameters())
    for seed in range(3):
        backward(inside, seed)
        backward(outside, seed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first.step()
        second.step()
    assert same(weights(inside), weights(outside))


def test_a_gradient_on_a_frozen_parameter_moves_it_as_in_torch(make) -> None:
    param = torch.ones(3)
    optimizer = make([param])
    assert not optimizer.state
    param.grad = torch.ones(3)
    optimizer.step()
    assert (param < 1).all()


def test_the_default_dtype_does_not_matter(make) -> None:
    param = torch.ones(3, requires_grad=True)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        optimizer = make([param])
        param.grad = torch.ones_like(param)
        optimizer.step()
    finally:
        torch.set_default_dtype(before)
    assert {tensor.dtype for tensor in optimizer.state[param].values()} == {torch.float32}


def test_strided_scalar_and_empty_parameters(make) -> None:
    generator = torch.Generator().manual_seed(0)
    strided = torch.randn(4, 6, generator=generator).t().requires_grad_()
    image = (
        torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
    )
    scalar, empty = torch.tensor(1.0, requires_grad=True), torch.zeros(0, 3, requires_grad=True)
    params = [strided, scalar, empty, image]
    plain = [param.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for param in params]
    first, second = make(params), make(plain)
    for _ in range(3):
        for param, other in zip(params, plain, strict=True):
            other.grad = torch.randn(param.shape, generator=generator)
            param.grad = torch.empty_like(param).copy_(other.grad)
        first.step()
        second.step()
    assert same([param.detach() for param in params], [param.detach() for param in plain])
    assert strided.stride() == (1, 6)
    assert first.state[scalar]["memory"].shape == (8,)
    assert first.state[empty]["memory"].shape == (8, 0, 3)


def test_state_is_there_before_the_first_step(make) -> None:
    model = network()
    optimizer = make(model[0].parameters())
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 1e-3})
    for param in model.parameters():
        state = optimizer.state[param]
        assert list(state) == ["step", "skipped", "memory"]
        assert state["memory"].shape == (8, *param.shape)
        assert not any(tensor.any() for tensor in state.values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_touches_nothing_and_is_reported(make, bad) -> None:
    model, clean = network(), network()
    optimizer = make(model.named_parameters(), weight_decay=0.1)
    other = make(clean.named_parameters(), weight_decay=0.1)
    for each, opt in ((model, optimizer), (clean, other)):
        train(each, opt, range(3))
        backward(each, 3)
    victim = model[0].weight
    before = victim.detach().clone(), {k: v.clone() for k, v in optimizer.state[victim].items()}
    victim.grad[1, 2] = bad
    with pytest.warns(UserWarning, match="gradient was not finite"):
        optimizer.step()
    other.step()
    assert torch.equal(victim.view(torch.int32), before[0].view(torch.int32))
    for key in ("step", "memory"):
        assert torch.equal(optimizer.state[victim][key].view(torch.int32), before[1][key].view(torch.int32))
    assert same(weights(model)[1:], weights(clean)[1:])
    assert optimizer.skipped_gradients() == {"0.weight": 1}

    victim.grad[1, 2] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert optimizer.skipped_gradients() == {"0.weight": 2}
    assert other.skipped_gradients() == {}


def test_skips_are_counted_by_index_without_names(make) -> None:
    model = network()
    optimizer = make([{"params": model[0].parameters()}, {"params": model[2].parameters()}])
    backward(model, 0)
    model[2].weight.grad.fill_(float("nan"))
    with pytest.warns(UserWarning, match="not finite"):
        optimizer.step()
    assert optimizer.skipped_gradients() == {2: 1}


@pytest.mark.parametrize("kind", ["sparse", "complex"])
def test_gradients_of_a_kind_that_is_not_supported_change_nothing(make, kind) -> None:
    model = network()
    last = nn.Parameter(torch.randn(3, 3, dtype=torch.complex64 if kind == "complex" else None))
    optimizer = make([*model.named_parameters(), ("last", last)])
    backward(model, 0)
    last.grad = torch.ones_like(last) if kind == "complex" else torch.eye(3).to_sparse()
    before = weights(model) + snapshot(optimizer)
    with pytest.raises(RuntimeError, match=f"does not support {kind} gradients: parameter 'last'"):
        optimizer.step()
    assert same(before, weights(model) + snapshot(optimizer))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"lr": torch.tensor(-1.0)}, "lr is -1.0"),
        ({"lr": torch.tensor([1e-3, 1e-3])}, "Tensor lr must be 1-element"),
        ({"weight_decay": -0.1}, "weight_decay value: -0.1"),
        ({"weight_decay": float("nan")}, "weight_decay value: nan"),
        ({"backend": "eagre"}, "unknown backend 'eagre'.*did you mean 'eager'"),
    ],
)
def test_options_are_checked_before_parameters(make, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make(None, **options)


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"weight_decay": float("nan")}])
def test_options_are_checked_before_weights_are_loaded(options) -> None:
    with pytest.raises(ValueError, match="Invalid"):
        LearnedOptimizer.from_pretrained("no such rule", None, **options)
    with pytest.raises(ValueError, match="Invalid"):
        FLT(None, **options)


def test_meta_parameters_of_another_rule_are_refused() -> None:
    with pytest.raises(ValueError, match="is unknown"):
        LearnedOptimizer(
            network().parameters(),
            rule=UpdateRule(RuleConfig(memory=MomentsConfig())),
            meta=UpdateRule().init_meta(),
        )


def test_groups_with_bad_options_are_refused_and_change_nothing(make) -> None:
    model = network()
    optimizer = make(model[0].parameters())
    group = {"params": list(model[2].parameters())}
    with pytest.raises(ValueError, match=r"option of a parameter group 'weight_decy'.*'weight_decay'"):
        optimizer.add_param_group({**group, "weight_decy": 0.1})
    with pytest.raises(ValueError, match="lr is -1"):
        optimizer.add_param_group({**group, "lr": -1})
    assert len(optimizer.param_groups) == 1
    assert len(optimizer.state) == 2
    optimizer.add_param_group({**group, "initial_lr": 0.1, "lr_scale": 0.5, "name": "head"})


def test_meta_parameters_are_copied(trained) -> None:
    rule = UpdateRule()
    meta = trained(rule)
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, meta=meta)
    for tensor in meta.values():
        tensor.fill_(float("nan"))
    train(model, optimizer, range(2))
    assert all(tensor.isfinite().all() for tensor in weights(model))


def clones(optimizer: LearnedOptimizer, model: nn.Module):
    """The same pair again, by each way there is."""
    yield copy.deepcopy((model, optimizer))
    yield pickle.loads(pickle.dumps((model, optimizer)))
    buffer = io.BytesIO()
    torch.save((model, optimizer), buffer)
    buffer.seek(0)
    yield torch.load(buffer, weights_only=False)


def test_copies_go_on_to_the_same_bits(make) -> None:
    model = network()
    optimizer = make(model.named_parameters(), weight_decay=0.1)
    train(model, optimizer, range(3))
    pairs = list(clones(optimizer, model))
    train(model, optimizer, range(3, 6))
    for other, again in pairs:
        train(other, again, range(3, 6))
        assert same(weights(other), weights(model))
        assert same(snapshot(again), snapshot(optimizer))
        assert again.rule.config == optimizer.rule.config
        assert again.backend == "eager"


def test_a_shallow_copy_steps(make) -> None:
    model = network()
    optimizer = make(model.parameters())
    train(model, copy.copy(optimizer), range(2))
    assert optimizer.state[model[0].weight]["step"] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_resuming_gives_the_same_bits(make, dtype) -> None:
    straight, stopped = network(dtype), network(dtype)
    optimizer, first = make(straight.named_parameters()), make(stopped.named_parameters())
    train(straight, optimizer, range(10))
    train(stopped, first, range(5))
    buffer = io.BytesIO()
    torch.save({"model": stopped.state_dict(), "optimizer": first.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)

    resumed = network(dtype)
    resumed.load_state_dict(saved["model"])
    second = make(resumed.named_parameters(), lr=0.5)
    second.load_state_dict(saved["optimizer"])
    assert same(snapshot(first), snapshot(second))
    train(resumed, second, range(5, 10))
    assert same(weights(straight), weights(resumed))
    assert same(snapshot(optimizer), snapshot(second))


def test_loading_neither_changes_nor_shares_the_callers_dict(make) -> None:
    model, other = network(), network()
    source, target = make(model.parameters()), make(other.parameters())
    train(model, source, range(2))
    saved = source.state_dict()
    before = copy.deepcopy(saved)
    target.load_state_dict(saved)
    train(other, target, range(3))
    torch.testing.assert_close(saved, before, rtol=0, atol=0)


def test_load_hooks_see_the_state_as_it_is(make) -> None:
    model = network(torch.bfloat16)
    optimizer = make(model.parameters())
    train(model, optimizer, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    seen = []

    def halve(_, incoming):
        incoming["state"] = {
            key: {**value, "memory": value["memory"] / 2} for key, value in incoming["state"].items()
        }
        return incoming

    optimizer.register_load_state_dict_pre_hook(halve)
    optimizer.register_load_state_dict_post_hook(
        lambda opt: seen.append(opt.state[model[0].weight]["memory"].clone())
    )
    optimizer.load_state_dict(saved)
    assert torch.equal(seen[0], saved["state"][0]["memory"] / 2)


def test_state_that_is_missing_starts_afresh(make) -> None:
    model = network()
    optimizer = make(model.parameters())
    saved = optimizer.state_dict()
    train(model, optimizer, range(2))
    del saved["state"][0]
    optimizer.load_state_dict(saved)
    assert all(not tensor.any() for tensor in optimizer.state[model[0].weight].values())
    assert optimizer.state[model[0].bias]["step"] == 2


def foreign_states(make):
    model = network()
    adam = torch.optim.Adam(model.parameters())
    train(model, adam, range(1))
    yield adam.state_dict(), "state of parameter 0 of shape .8, 6. holds step, exp_avg, exp_avg_sq"
    moments = UpdateRule(RuleConfig(memory=MomentsConfig()))
    of_moments = make(model.parameters(), rule=moments, meta=moments.init_meta())
    yield of_moments.state_dict(), "memory of parameter 0 .* has shape .4, 8, 6.; expected .8, 8, 6."
    wider = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3))
    yield make(wider.parameters()).state_dict(), "memory of parameter 0 .* has shape .8, 9, 6."
    yield make(model[0].parameters()).state_dict(), "doesn't match the size"
    broken = make(model.parameters()).state_dict()
    broken["param_groups"][0]["lr"] = float("nan")
    yield broken, "lr is nan"


def test_foreign_states_are_refused_and_change_nothing(make) -> None:
    model = network()
    optimizer = make(model.parameters())
    train(model, optimizer, range(2))
    before = snapshot(optimizer)
    for state_dict, message in foreign_states(make):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state_dict)
        assert same(before, snapshot(optimizer))
        assert optimizer.param_groups[0]["lr"] == 1e-2
    train(model, optimizer, range(1))


SCHEDULERS = {
    "step": lambda opt: lr_scheduler.StepLR(opt, 3),
    "cosine": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 10),
    "warm restarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 4),
    "one cycle": lambda opt: lr_scheduler.OneCycleLR(opt, 0.02, total_steps=12, cycle_momentum=False),
    "cyclic": lambda opt: lr_scheduler.CyclicLR(opt, 1e-3, 1e-2, step_size_up=4, cycle_momentum=False),
    "lambda": lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 0.9**step),
    "plateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=1),
    "sequence": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, total_iters=4), lr_scheduler.ExponentialLR(opt, 0.9)], [4]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_schedulers_drive_it_as_they_drive_adam(adam_rule, name, tensor_lr) -> None:
    ours, theirs = network(), network()
    lr = (lambda: torch.tensor(1e-2)) if tensor_lr else (lambda: 1e-2)
    first = LearnedOptimizer(ours.parameters(), lr(), rule=adam_rule, meta=adam_rule.init_meta())
    second = torch.optim.Adam(theirs.parameters(), lr(), eps=0.0)
    for model, optimizer in ((ours, first), (theirs, second)):
        scheduler = SCHEDULERS[name](optimizer)
        for seed in range(10):
            backward(model, seed)
            optimizer.step()
            scheduler.step(*([1.0] if name == "plateau" else []))
    assert first.param_groups[0]["lr"] == pytest.approx(float(second.param_groups[0]["lr"]))
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_grad_scaler_unscales_and_skips(make) -> None:
    scaled, plain = network(), network()
    first, second = make(scaled.parameters()), make(plain.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    batch = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    for factor in (1.0, float("inf"), 1.0):
        before = weights(scaled)
        first.zero_grad()
        scaler.scale(factor * scaled(batch).square().mean()).backward()
        scaler.unscale_(first)
        torch.nn.utils.clip_grad_norm_(scaled.parameters(), 1.0)
        scaler.step(first)
        scaler.update()
        if factor == 1.0:
            second.zero_grad()
            plain(batch).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            second.step()
        else:
            assert same(before, weights(scaled))
    assert same(weights(scaled), weights(plain))
    assert first.skipped_gradients() == {}


def test_saving_and_loading_a_rule(make, tmp_path) -> None:
    model = network()
    optimizer = make(model.parameters())
    optimizer.save_pretrained(tmp_path / "mine", {"steps": 3})
    again = LearnedOptimizer.from_pretrained(tmp_path / "mine", model.parameters(), 0.1, weight_decay=0.2)
    assert all(torch.equal(again.meta[name], tensor) for name, tensor in optimizer.meta.items())
    assert again.rule.config == optimizer.rule.config
    assert again.defaults == {"lr": 0.1, "weight_decay": 0.2, "maximize": False}


def test_flt_uses_the_weights_that_ship(make, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path)
    model = network()
    with pytest.raises(CheckpointError, match="flt-base"):
        FLT(model.parameters())
    make(model.parameters()).save_pretrained(tmp_path / "flt-base")
    optimizer = FLT(model.parameters(), lr=0.1, weight_decay=0.2)
    train(model, optimizer, range(2))
    assert optimizer.defaults == {"lr": 0.1, "weight_decay": 0.2, "maximize": False}
    assert isinstance(pickle.loads(pickle.dumps(optimizer)), FLT)
