import functools
import itertools
import pickle

import pytest
import torch

from tasks.benchmark.contestants.baselines import BASELINES, Entry, get_entry, log_grid
from tasks.benchmark.schedules import SCHEDULES, schedule_factors
from tasks.registry import UnknownNameError


def leaves():
    return {"weight": torch.ones(3, requires_grad=True)}


def tensors_only(params, *, lr):
    if isinstance(params[0], tuple):
        raise TypeError("tensors only")
    return torch.optim.SGD(params, lr=lr)


def no_optimizer(params, *, lr):
    return "nothing"


def test_the_default_grid_is_fourteen_rates_from_1e4_to_1():
    grid = log_grid()
    assert (len(grid), grid[0], grid[-1]) == (14, 1e-4, 1.0)
    ratios = [after / before for before, after in itertools.pairwise(grid)]
    assert max(ratios) / min(ratios) < 1.001


@pytest.mark.parametrize("arguments", [(0.0, 1.0, 3), (1.0, 0.1, 3), (0.1, 1.0, 1), (0.1, float("inf"), 3)])
def test_a_grid_needs_rising_positive_ends(arguments):
    with pytest.raises(ValueError, match="0 < low < high"):
        log_grid(*arguments)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_builds_with_names_and_pickles(name):
    entry = pickle.loads(pickle.dumps(get_entry(name)))
    optimizer = entry.build(leaves(), 0.1)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["param_names"] == ["weight"]
    assert len(entry.learning_rates) == 14


def test_an_unknown_optimizer_is_named_with_the_closest():
    with pytest.raises(UnknownNameError, match=r"adamm.*'adam'"):
        get_entry("adamm")


def test_a_factory_that_refuses_names_gets_tensors():
    optimizer = Entry("plain", tensors_only, 0.1).build(leaves(), 0.2)
    assert optimizer.param_groups[0]["lr"] == 0.2


def test_a_factory_must_return_an_optimizer():
    with pytest.raises(TypeError, match="returned str"):
        Entry("broken", no_optimizer, 0.1).build(leaves(), 0.1)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf"), "1e-3"])
def test_learning_rates_are_positive_numbers(lr):
    with pytest.raises(ValueError, match="learning rate"):
        Entry("broken", tensors_only, lr)
    with pytest.raises(ValueError, match="learning rate"):
        Entry("broken", tensors_only, 0.1, (0.1, lr))


@pytest.mark.parametrize("name", ["", "a/b", "a\nb"])
def test_names_fit_file_names(name):
    with pytest.raises(ValueError, match="name"):
        Entry(name, tensors_only, 0.1)


def test_an_empty_sweep_is_the_default_alone():
    assert Entry("one", tensors_only, 0.1).learning_rates == (0.1,)


def test_fingerprints_tell_factories_and_their_arguments_apart():
    factories = [
        torch.optim.Adam,
        functools.partial(torch.optim.Adam, fused=True),
        functools.partial(torch.optim.Adam, fused=False),
        tensors_only,
        no_optimizer,
    ]
    prints = [Entry("name", factory, 0.1).fingerprint for factory in factories]
    assert len(set(prints)) == len(prints)
    assert Entry("other", tensors_only, 0.2).fingerprint == prints[3]
    assert Entry("name", tensors_only, 0.1, identity="weights 1").fingerprint not in prints


@pytest.mark.parametrize("steps", [1, 2, 7, 500])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_factors_that_peak_at_one(name, steps):
    factors = schedule_factors(name, steps)
    assert len(factors) == steps
    assert all(0 <= factor <= 1 for factor in factors)
    assert max(factors) == 1


def test_the_cosine_halves_in_the_middle_and_the_warm_up_rises():
    assert schedule_factors("cosine", 100)[50] == pytest.approx(0.5)
    factors = schedule_factors("warmup-cosine", 100)
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[-1] < 0.01


def test_an_unknown_schedule_is_named():
    with pytest.raises(UnknownNameError, match=r"schedule 'cosin'.*'cosine'"):
        schedule_factors("cosin", 10)
