"""Its state: from the start, through copies, saved and loaded."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer
from tests.learned_opt.training import network, same, snapshot, train, weights

state_dtypes = pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16], ids=str)


@state_dtypes
def test_state_is_there_before_the_first_step(make, state_dtype) -> None:
    model = network()
    optimizer = make(model[0].parameters(), state_dtype=state_dtype)
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 1e-3})
    for param in model.parameters():
        state = optimizer.state[param]
        assert list(state) == ["step", "skipped", "memory"]
        assert state["memory"].shape == (8, *param.shape)
        assert state["memory"].dtype == state_dtype
        assert not any(tensor.any() for tensor in state.values())


def clones(optimizer: LearnedOptimizer, model: nn.Module):
    """The same pair again, by each way there is."""
    yield copy.deepcopy((model, optimizer))
    yield pickle.loads(pickle.dumps((model, optimizer)))
    buffer = io.BytesIO()
    torch.save((model, optimizer), buffer)
    buffer.seek(0)
    yield torch.load(buffer, weights_only=False)


@state_dtypes
def test_copies_go_on_to_the_same_bits(make, state_dtype) -> None:
    model = network()
    optimizer = make(model.named_parameters(), weight_decay=0.1, state_dtype=state_dtype)
    train(model, optimizer, range(3))
    pairs = list(clones(optimizer, model))
    train(model, optimizer, range(3, 6))
    for other, again in pairs:
        train(other, again, range(3, 6))
        assert same(weights(other), weights(model))
        assert same(snapshot(again), snapshot(optimizer))
        assert again.rule.config == optimizer.rule.config
        assert again.backend == "auto"
        assert again.state_dtype == state_dtype


def test_a_shallow_copy_steps(make) -> None:
    model = network()
    optimizer = make(model.parameters())
    train(model, copy.copy(optimizer), range(2))
    assert optimizer.state[model[0].weight]["step"] == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("orthogonalize", [False, True])
@state_dtypes
def test_resuming_gives_the_same_bits(make, dtype, orthogonalize, state_dtype) -> None:
    straight, stopped = network(dtype), network(dtype)
    options = {"orthogonalize": orthogonalize, "state_dtype": state_dtype}
    optimizer = make(straight.named_parameters(), **options)
    first = make(stopped.named_parameters(), **options)
    train(straight, optimizer, range(10))
    train(stopped, first, range(5))
    buffer = io.BytesIO()
    torch.save({"model": stopped.state_dict(), "optimizer": first.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)

    resumed = network(dtype)
    resumed.load_state_dict(saved["model"])
    second = make(resumed.named_parameters(), lr=0.5, state_dtype=state_dtype)
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


@pytest.mark.parametrize(
    ("saved", "held"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)]
)
def test_memory_loads_into_an_optimizer_of_another_state_dtype(make, saved, held) -> None:
    model, other = network(), network()
    source, target = make(model.parameters(), state_dtype=saved), make(other.parameters(), state_dtype=held)
    train(model, source, range(3))
    target.load_state_dict(source.state_dict())
    for param, loaded in zip(model.parameters(), other.parameters(), strict=True):
        ours, theirs = source.state[param], target.state[loaded]
        assert theirs["memory"].dtype == held
        assert torch.equal(theirs["memory"], ours["memory"].to(held))
        assert theirs["step"] == 3
    train(other, target, range(3, 5))


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


def test_marks_that_a_scheduler_left_in_a_group_come_back(make) -> None:
    model = network()
    optimizer = make(model.parameters())
    optimizer.param_groups[0]["their_peak"] = 0.5
    again = make(model.parameters())
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["their_peak"] == 0.5


def test_state_that_is_missing_starts_afresh(make) -> None:
    model = network()
    optimizer = make(model.parameters())
    saved = optimizer.state_dict()
    train(model, optimizer, range(2))
    del saved["state"][0]
    optimizer.load_state_dict(saved)
    assert all(not tensor.any() for tensor in optimizer.state[model[0].weight].values())
    assert optimizer.state[model[0].bias]["step"] == 2
