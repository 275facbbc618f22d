"""What it refuses, by name and before anything has changed."""

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from learned_opt import FLT, LearnedOptimizer, MomentsConfig, RuleConfig, UpdateRule
from tests.learned_opt.training import backward, network, same, snapshot, train, weights


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


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("last", [(8,), (200_000,), (2, 2)])
def test_a_parameter_that_has_taken_another_shape_changes_nothing(make, backend, last) -> None:
    model, param = network(), nn.Parameter(torch.ones(4))
    optimizer = make([*model.named_parameters(), ("last", param)], backend=backend)
    backward(model, 0)
    param.grad = torch.ones(4)
    optimizer.step()
    before = weights(model) + snapshot(optimizer)
    stale, param.data = param.grad, torch.ones(last)
    with pytest.raises(RuntimeError, match=r"the gradient of parameter 'last' .* is for the shape \(4,\)"):
        optimizer.step()
    assert param.grad is stale
    param.grad = torch.ones(last)
    with pytest.raises(RuntimeError, match=r"the state of parameter 'last' .* is for the shape \(4,\)"):
        optimizer.step()
    assert same(before, weights(model) + snapshot(optimizer))


def test_a_group_whose_state_cannot_be_made_is_not_added(make, monkeypatch) -> None:
    model = network()
    optimizer = make(model[0].parameters())
    monkeypatch.setattr("learned_opt.optimizer.new_state", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.add_param_group({"params": list(model[2].parameters())})
    assert len(optimizer.param_groups) == 1
    assert len(optimizer.state) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"lr": torch.tensor(-1.0)}, "lr is -1.0"),
        ({"lr": torch.tensor([1e-3, 1e-3])}, "Tensor lr must be 1-element"),
        ({"weight_decay": torch.tensor([0.1, 0.2])}, "Tensor weight_decay must be 1-element"),
        ({"weight_decay": -0.1}, "weight_decay value: -0.1"),
        ({"weight_decay": float("nan")}, "weight_decay value: nan"),
        ({"maximize": "yes"}, "maximize is 'yes'; expected True or False"),
        ({"orthogonalize": 2}, "orthogonalize is 2"),
        ({"orthogonalize": torch.tensor(True)}, r"orthogonalize is tensor\(True\); expected True or False"),
        ({"state_dtype": torch.float16}, "state_dtype is torch.float16; expected one of torch.float32"),
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
    with pytest.raises(ValueError, match=r"Tensor lr must be 1-element; got shape \(2,\)"):
        optimizer.add_param_group({**group, "lr": torch.ones(2)})
    with pytest.raises(ValueError, match=r"parameter 1 of shape \(3, 8\) stands twice"):
        optimizer.add_param_group({"params": [model[2].weight, model[2].weight]})
    with pytest.raises(ValueError, match=r"more than one parameter group: 1 of shape \(8, 6\)"):
        optimizer.add_param_group({"params": [model[2].weight, model[0].weight]})
    with pytest.raises(ValueError, match="differentiable is True in a parameter group; expected False"):
        optimizer.add_param_group({**group, "differentiable": True})
    assert len(optimizer.param_groups) == 1
    assert len(optimizer.state) == 2
    optimizer.add_param_group({**group, "initial_lr": 0.1, "lr_scale": 0.5, "name": "head"})


def foreign_states(make):
    model = network()
    adam = torch.optim.Adam(model.parameters())
    train(model, adam, range(1))
    yield adam.state_dict(), "state of parameter 0 of shape .8, 6. holds step, exp_avg, exp_avg_sq"
    ours = make(model.parameters())
    other = make(model.parameters(), meta={name: 2 * tensor for name, tensor in ours.meta.items()})
    yield other.state_dict(), "state dict is of another rule"
    newer = ours.state_dict()
    newer["param_groups"][0]["format_version"] = 2
    yield newer, "format_version 2; this release reads up to 1"
    moments = UpdateRule(RuleConfig(memory=MomentsConfig()))
    unmarked = make(model.parameters(), rule=moments, meta=moments.init_meta()).state_dict()
    del unmarked["param_groups"][0]["rule_id"]
    yield unmarked, "memory of parameter 0 .* has shape .4, 8, 6.; expected .8, 8, 6."
    wider = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3))
    yield make(wider.parameters()).state_dict(), "memory of parameter 0 .* has shape .8, 9, 6."
    yield make(model[0].parameters()).state_dict(), "doesn't match the size"
    broken = make(model.parameters()).state_dict()
    broken["param_groups"][0]["lr"] = float("nan")
    yield broken, "lr is nan"
    listed = make(model.parameters()).state_dict()
    listed["state"][1]["memory"] = listed["state"][1]["memory"].tolist()
    yield listed, "memory of parameter 1 .* is a list"


def test_foreign_states_are_refused_and_change_nothing(make) -> None:
    model = network()
    optimizer = make(model.parameters())
    train(model, optimizer, range(2))
    before = snapshot(optimizer)
    for state_dict, message in foreign_states(make):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state_dict)
        assert same(before, snapshot(optimizer))
        assert {key: optimizer.param_groups[0][key] for key in optimizer.defaults} == optimizer.defaults
    train(model, optimizer, range(1))


def test_a_flattened_state_dict_of_another_rule_is_refused(make) -> None:
    """Of its groups torch hands on only what the optimizer's own groups have."""
    model, flat = nn.Linear(3, 2), StateDictOptions(flatten_optimizer_state_dict=True)
    optimizer = make(model.parameters())
    saved = get_optimizer_state_dict(model, optimizer, options=flat)
    set_optimizer_state_dict(model, optimizer, saved, options=flat)
    other = make(model.parameters(), meta={name: 1.5 * tensor for name, tensor in optimizer.meta.items()})
    with pytest.raises(ValueError, match="state dict is of another rule"):
        set_optimizer_state_dict(model, other, saved, options=flat)
