import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks import get_task
from tasks.base import Task
from tasks.benchmark import Entry, get_entry
from tasks.benchmark.running.alone import run_cell
from tasks.benchmark.running.cell import Cell
from tasks.benchmark.running.population import MOST_MEMBERS, group_size, run_group
from tests.tasks.celo_reference import reference

STEPS = 12


def cells(entry, task, rates=None, schedules=("constant", "cosine"), steps=STEPS):
    rates = (0.3 * entry.default_lr, entry.default_lr, 2 * entry.default_lr) if rates is None else rates
    return [Cell(task, entry.name, schedule, rate, 0, steps) for rate in rates for schedule in schedules]


def require_close(together, alone):
    for ours, expected in zip(together, alone, strict=True):
        assert (ours.cell, ours.status) == (expected.cell, "finished"), (ours.error, expected.error)
        np.testing.assert_allclose(ours.curve, expected.curve, rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(ours.path, expected.path, rtol=1e-4, atol=1e-5)
        assert ours.parameters == expected.parameters
        assert ours.validation.keys() == expected.validation.keys()
        assert ours.validation["loss"] == pytest.approx(expected.validation["loss"], rel=1e-3)


@pytest.fixture
def alone_is_refused(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the runs did not advance together")

    monkeypatch.setattr("tasks.benchmark.running.population.run_cell", refuse)


NAMES = ("adam", "sgd", "lamb", "muon", "po:schedulefreeadamw", "celo")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task", ["digits-mlp-32", "rastrigin-2"])
def test_runs_together_are_those_alone_to_rounding(task, name, alone_is_refused):
    if name.startswith("po:"):
        pytest.importorskip("pytorch_optimizer")
    entry = get_entry(f"celo:{reference('theta.state')}" if name == "celo" else name)
    instance, settings = get_task(task, seed=0), cells(entry, task)
    alone = [run_cell(instance, entry, cell) for cell in settings]
    require_close(run_group(instance, entry, settings), alone)


def test_a_vision_transformer_too():
    entry, task = get_entry("adam"), get_task("digits-vit", seed=0)
    settings = cells(entry, "digits-vit", rates=(1e-4, 1e-3), schedules=("constant",), steps=3)
    require_close(run_group(task, entry, settings), [run_cell(task, entry, cell) for cell in settings])


def test_equal_groups_give_equal_bits(alone_is_refused):
    entry, task = get_entry("adam"), get_task("digits-mlp-32", seed=0)
    first, second = (run_group(task, entry, cells(entry, "digits-mlp-32")) for _ in range(2))
    assert [one.curve.tobytes() for one in first] == [one.curve.tobytes() for one in second]


@pytest.mark.parametrize("broken", ["diverges", "raises", "cannot be built"])
def test_a_member_that_stops_leaves_the_others_as_they_are_to_the_bit(broken, alone_is_refused):
    class Breaks(torch.optim.Adam):
        count = 0

        def step(self, closure=None):
            self.count += 1
            if self.count == 4 and self.param_groups[0]["lr"] == 0.5:
                if broken == "raises":
                    raise ArithmeticError("unlucky")
                with torch.no_grad():
                    self.param_groups[0]["params"][0].fill_(math.nan)
            super().step(closure)

    def factory(params, *, lr):
        if broken == "cannot be built" and lr == 0.5:
            raise ArithmeticError("unlucky")
        return (Breaks if bad else torch.optim.Adam)(params, lr=lr)

    task, results = get_task("digits-mlp-32", seed=0), []
    for bad in (True, False):
        entry = Entry("one", factory, 1e-3)
        rates = (1e-3, 0.5 if bad else 0.25, 1e-2)
        results.append(run_group(task, entry, cells(entry, "digits-mlp-32", rates, ("constant",))))
    (first, middle, last), (same_first, _, same_last) = results
    assert first.curve.tobytes() == same_first.curve.tobytes()
    assert last.curve.tobytes() == same_last.curve.tobytes()
    if broken == "diverges":
        assert (middle.status, len(middle.curve)) == ("diverged", 5)
    else:
        assert (middle.status, middle.error) == ("failed", "ArithmeticError: unlucky")


def test_what_replaces_a_parameters_memory_is_written_through(alone_is_refused):
    class Replaces(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter.data = parameter - self.param_groups[0]["lr"] * parameter.grad

    entry, task = Entry("replaces", Replaces, 1e-2), get_task("digits-mlp-32", seed=0)
    plain = Entry("replaces", torch.optim.SGD, 1e-2)
    settings = cells(entry, "digits-mlp-32")
    require_close(run_group(task, entry, settings), run_group(task, plain, settings))


def test_gradients_may_be_changed_in_place(alone_is_refused):
    class Decays(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter.grad.mul_(0.5)
            super().step()

    entry, task = Entry("halves", Decays, 1e-2), get_task("digits-mlp-32", seed=0)
    halved = run_group(task, entry, cells(entry, "digits-mlp-32", (2e-2, 4e-2)))
    plain = Entry("halves", torch.optim.SGD, 1e-2)
    expected = run_group(task, plain, cells(plain, "digits-mlp-32", (1e-2, 2e-2)))
    for ours, theirs in zip(halved, expected, strict=True):
        np.testing.assert_allclose(ours.curve, theirs.curve, rtol=1e-5)


class Noisy(torch.optim.SGD):
    """Draws from torch's own generator, at some step."""

    def step(self, closure=None):
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.grad += 0.01 * torch.randn_like(parameter)
        super().step(closure)


def test_optimizers_that_draw_see_the_same_numbers_as_alone():
    entry, task = Entry("noisy", Noisy, 1e-2), get_task("digits-mlp-32", seed=0)
    settings = cells(entry, "digits-mlp-32")
    together = run_group(task, entry, settings)
    alone = [run_cell(task, entry, cell) for cell in settings]
    assert [one.curve.tobytes() for one in together] == [one.curve.tobytes() for one in alone]


class Unmappable(Task):
    """Its loss needs a number, which ``vmap`` cannot give."""

    def __init__(self):
        super().__init__(name="unmappable", description="A bowl.", default_steps=5, learning_rates=(0.1, 1.0))

    def init(self, generator):
        return {"x": torch.randn(2, generator=generator)}

    def batch(self, generator, split="train"):
        return (torch.zeros(1),)

    def loss(self, params, batch):
        square = params["x"].square().sum()
        return square if square.item() > 1 else 2 * square

    def normalise(self, loss):
        return loss

    def evaluate(self, params):
        return {"loss": float(params["x"].square().sum())}


def test_which_runs_advance_together():
    adam = get_entry("adam")
    assert group_size(get_task("digits-mlp"), adam) == MOST_MEMBERS
    assert group_size(get_task("digits-vit"), adam) == 1
    assert group_size(get_task("digits-vit"), replace(adam, population=adam.factory)) == 15
    assert group_size(get_task("text-transformer"), adam) == 1
    assert group_size(Unmappable(), adam) == 1
    assert group_size(get_task("digits-mlp"), Entry("second", torch.optim.SGD, 1.0, takes=("graph",))) == 1


def test_a_loss_that_cannot_be_mapped_runs_alone():
    entry, task = get_entry("adam"), Unmappable()
    settings = cells(entry, "unmappable")
    together = run_group(task, entry, settings)
    assert [one.curve.tobytes() for one in together] == [
        run_cell(task, entry, cell).curve.tobytes() for cell in settings
    ]


class Counting(Task):
    """A bowl whose loss cannot be had from the fifth call on."""

    def __init__(self):
        super().__init__(name="counting", description="A bowl.", default_steps=9, learning_rates=(0.1, 1.0))
        self.calls = 0

    def init(self, generator):
        return {"x": torch.randn(3, generator=generator)}

    def batch(self, generator, split="train"):
        return (torch.zeros(1),)

    def loss(self, params, batch):
        self.calls += 1
        if self.calls > 5:
            raise ArithmeticError("the task is tired")
        return params["x"].square().sum()

    def normalise(self, loss):
        return loss

    def evaluate(self, params):
        return {"loss": 0.0}


def test_a_task_that_raises_fails_every_run_with_its_message():
    entry = get_entry("adam")
    results = run_group(Counting(), entry, cells(entry, "counting"))
    assert {(one.status, one.error) for one in results} == {("failed", "ArithmeticError: the task is tired")}


def test_seconds_are_shared_by_steps():
    entry = Entry("descent", torch.optim.SGD, 1e-3)
    settings = cells(entry, "digits-mlp-32", (1e-3, 1e9), ("constant",), steps=40)
    finished, diverged = run_group(get_task("digits-mlp-32", seed=0), entry, settings)
    assert diverged.status == "diverged"
    assert finished.seconds / 40 == pytest.approx(diverged.seconds / len(diverged.curve))
