from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from tasks import ClassificationTask, get_task, load_dataset
from tasks.augment import LossScale

ABOUT = {"name": "own", "description": "own", "default_steps": 10, "learning_rates": (1e-3, 1e-1)}


def own_task(factory, batch_size=8):
    return ClassificationTask(factory, load_dataset("digits"), batch_size, **ABOUT)


def half_frozen():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    return model.requires_grad_(False).append(nn.Linear(10, 10))


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.register_buffer("shift", torch.full((10,), 2.0))

    def forward(self, x):
        return self.linear(x.flatten(1)) * self.shift


def test_loss_is_the_plain_modules_loss():
    task = get_task("digits-mlp")
    params = task.init(torch.Generator().manual_seed(0))
    inputs, labels = task.batch(torch.Generator().manual_seed(1))
    module = task.factory()
    module.load_state_dict(params)
    expected = functional.cross_entropy(module(inputs), labels)
    torch.testing.assert_close(task.loss(params, (inputs, labels)), expected)
    assert list(params) == [name for name, _ in module.named_parameters()]


def test_evaluate_walks_the_whole_validation_split_whatever_the_chunk():
    task = get_task("digits-mlp-32")
    params = {k: v.requires_grad_() for k, v in task.init(torch.Generator().manual_seed(0)).items()}
    (inputs, labels) = next(load_dataset("digits").chunks("validation", 360))
    outputs = task.forward(params, inputs)
    expected = {
        "loss": functional.cross_entropy(outputs, labels).item(),
        "accuracy": (outputs.argmax(1) == labels).double().mean().item(),
    }
    for chunk in (7, 100, 360, 1000):
        assert task.evaluate(params, chunk=chunk) == pytest.approx(expected, rel=1e-5)


def test_adam_learns_the_digits():
    task = get_task("digits-mlp-32")
    rng = torch.Generator().manual_seed(0)
    params = {k: v.requires_grad_() for k, v in task.init(rng).items()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        task.loss(params, task.batch(rng)).backward()
        optimizer.step()
    assert task.evaluate(params)["accuracy"] > 0.93


def test_buffers_are_constants():
    task = own_task(Shifted)
    params = task.init(torch.Generator().manual_seed(0))
    assert set(params) == {"linear.weight", "linear.bias"}
    inputs, _ = task.batch(torch.Generator().manual_seed(0))
    expected = 2 * functional.linear(inputs.flatten(1), params["linear.weight"], params["linear.bias"])
    torch.testing.assert_close(task.forward(params, inputs), expected)


def test_frozen_parameters_are_constants():
    task = own_task(half_frozen)
    first, second = (task.init(torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert set(first) == {"4.weight", "4.bias"}
    assert not torch.equal(first["4.weight"], second["4.weight"])
    inputs, _ = task.batch(torch.Generator().manual_seed(0))
    hidden = task.module[:4](inputs)
    for params in (first, second):
        expected = functional.linear(hidden, params["4.weight"], params["4.bias"])
        torch.testing.assert_close(task.forward(params, inputs), expected)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.linear(x.flatten(1))


def test_other_changing_buffers_are_refused():
    with pytest.raises(ValueError, match=r"Counting changes its buffers while it trains \(calls\)"):
        own_task(Counting)


def test_bad_arguments():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        own_task(Shifted, batch_size=0)
    with pytest.raises(TypeError, match="factory must build a module, got the module Shifted itself"):
        own_task(Shifted())
    with pytest.raises(ValueError, match=r"learning_rates must be \(low, high\)"):
        ClassificationTask(Shifted, load_dataset("digits"), 8, **(ABOUT | {"learning_rates": (1.0, 0.1)}))
    with pytest.raises(ValueError, match="default_steps must be at least 1, got 0"):
        ClassificationTask(partial(Shifted), load_dataset("digits"), 8, **(ABOUT | {"default_steps": 0}))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"metric": "accuracy"}, True),
        ({"metric": "f1"}, False),
        ({"metric": "f1", "higher_is_better": True}, True),
    ],
)
def test_whether_more_of_the_metric_is_better_can_be_said(options, expected):
    task = ClassificationTask(half_frozen, load_dataset("digits"), 8, **ABOUT, **options)
    assert task.higher_is_better is expected
    assert LossScale(task, scale=2.0).higher_is_better is expected
