"""How it moves: options, closures, gradients that are not finite, and the weights of its rule."""

import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

from learned_opt import FLT, CheckpointError, LearnedOptimizer, UpdateRule, checkpoint
from learned_opt import members as members_module
from tests.learned_opt.training import backward, network, same, train, weights


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
    monkeypatch.setattr(members_module, "PACK_ELEMENTS", elements)
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_touches_nothing_and_is_reported(make, bad, state_dtype) -> None:
    model, clean = network(), network()
    options = {"weight_decay": 0.1, "orthogonalize": True, "state_dtype": state_dtype}
    optimizer = make(model.named_parameters(), **options)
    other = make(clean.named_parameters(), **options)
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
    after = optimizer.state[victim]
    assert torch.equal(after["memory"].view(torch.int16), before[1]["memory"].view(torch.int16))
    assert torch.equal(after["step"], before[1]["step"])
    assert same(weights(model)[1:], weights(clean)[1:])
    assert optimizer.skipped_gradients() == {"0.weight": 1}

    victim.grad[1, 2] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert optimizer.skipped_gradients() == {"0.weight": 2}
    assert other.skipped_gradients() == {}


@pytest.mark.parametrize("scheduled", [False, True])
def test_the_warning_of_a_skip_points_to_who_called_the_step(make, scheduled) -> None:
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = make([param])
    if scheduled:
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    param.grad = torch.full((3,), float("nan"))
    with pytest.warns(UserWarning, match="not finite") as caught:
        optimizer.step()
    assert [warning.filename for warning in caught] == [__file__]


def test_skips_are_counted_by_index_without_names(make) -> None:
    model = network()
    optimizer = make([{"params": model[0].parameters()}, {"params": model[2].parameters()}])
    backward(model, 0)
    model[2].weight.grad.fill_(float("nan"))
    with pytest.warns(UserWarning, match="not finite"):
        optimizer.step()
    assert optimizer.skipped_gradients() == {2: 1}


def test_meta_parameters_are_copied(trained) -> None:
    rule = UpdateRule()
    meta = trained(rule)
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, meta=meta)
    for tensor in meta.values():
        tensor.fill_(float("nan"))
    train(model, optimizer, range(2))
    assert all(tensor.isfinite().all() for tensor in weights(model))


def test_saving_and_loading_a_rule(make, tmp_path) -> None:
    model = network()
    optimizer = make(model.parameters())
    optimizer.save_pretrained(tmp_path / "mine", {"steps": 3})
    again = LearnedOptimizer.from_pretrained(tmp_path / "mine", model.parameters(), 0.1, weight_decay=0.2)
    assert all(torch.equal(again.meta[name], tensor) for name, tensor in optimizer.meta.items())
    assert again.rule.config == optimizer.rule.config
    assert again.defaults == {**optimizer.defaults, "lr": 0.1, "weight_decay": 0.2}


def test_flt_uses_the_weights_that_ship(make, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path)
    model = network()
    with pytest.raises(CheckpointError, match="flt-base"):
        FLT(model.parameters())
    make(model.parameters()).save_pretrained(tmp_path / "flt-base")
    options = {"lr": 0.1, "weight_decay": 0.2, "maximize": True, "orthogonalize": True}
    optimizer = FLT(model.parameters(), state_dtype=torch.bfloat16, **options)
    train(model, optimizer, range(2))
    assert options.items() <= optimizer.defaults.items()
    assert optimizer.state_dtype == torch.bfloat16
    assert isinstance(pickle.loads(pickle.dumps(optimizer)), FLT)
