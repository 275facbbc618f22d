import math

import numpy as np
import pytest
import torch
from torch.func import grad

from tasks import get_task
from tasks.logistic import ACCURACY, EXAMPLES, PARAMETRIC, LogisticRegression, synthetic


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def everything(task):
    return task.inputs.double(), task.labels


def small(**options):
    return synthetic(generator(), **{"features": 4, "classes": 3, "penalty": 1e-2, **options})


def test_the_loss_is_the_formula():
    task = small(batch_size=7)
    inputs, labels = task.batch(generator(1))
    params = {"weight": torch.randn(3, 4, generator=generator(2)), "bias": torch.tensor([0.3, -1.0, 0.5])}
    total = 0.0
    for x, label in zip(inputs.numpy().astype(float), labels.tolist(), strict=True):
        logits = params["weight"].numpy() @ x + params["bias"].numpy()
        total += np.log(np.exp(logits).sum()) - logits[label]
    squares = sum(float(value.square().sum()) for value in params.values())
    expected = total / 7 + 0.5 * 1e-2 * squares
    assert float(task.loss(params, (inputs, labels))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"penalty": 1e-4, "condition_number": 1e3}, {"classes": 2}])
def test_newton_finds_no_less_than_the_minimum(options):
    task = small(**options)
    batch = everything(task)
    width, classes = task.inputs.shape[1], task.classes
    flat = torch.zeros(classes * (width + 1), dtype=torch.float64)

    def objective(point):
        return task.loss({"weight": point[classes:].view(classes, width), "bias": point[:classes]}, batch)

    for _ in range(30):
        curvature = torch.autograd.functional.hessian(objective, flat)
        flat = flat - torch.linalg.solve(curvature, grad(objective)(flat))
    assert grad(objective)(flat).abs().max() < 1e-10
    found, error = task.solve()
    assert error <= ACCURACY
    assert -1e-12 <= found - float(objective(flat)) <= error + 1e-12


def test_the_gap_is_the_distance_to_the_minimum(tmp_path):
    task = small()
    start = task.init(generator())
    measured = task.evaluate(start)
    exact = {name: value.double() for name, value in start.items()}
    assert measured["loss"] == pytest.approx(float(task.loss(exact, everything(task))))
    assert measured["gap"] == pytest.approx(measured["loss"] - task.minimum(cache=tmp_path))
    assert measured["gap"] > 0.1
    params = {name: value.clone().requires_grad_() for name, value in exact.items()}
    descent = torch.optim.LBFGS(params.values(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        descent.zero_grad()
        loss = task.loss(params, everything(task))
        loss.backward()
        return loss

    descent.step(closure)
    trained = task.evaluate(params)
    assert -ACCURACY <= trained["gap"] < 1e-6
    assert trained["accuracy"] > measured["accuracy"]


def test_the_minimum_is_searched_for_once(tmp_path, monkeypatch):
    task = small()
    found = task.minimum(cache=tmp_path)
    monkeypatch.setattr(LogisticRegression, "solve", lambda _: pytest.fail("searched again"))
    monkeypatch.setattr("tasks.minima._memory", {})
    assert small().minimum(cache=tmp_path) == found
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(pytest.fail.Exception, match="searched again"):
        small(penalty=2e-2).minimum(cache=tmp_path)


def test_an_uncertain_minimum_gives_notice(monkeypatch):
    task = small()
    monkeypatch.setattr("tasks.logistic.MAX_ITERATIONS", 1)
    with pytest.warns(RuntimeWarning, match="logistic: the minimum is known only to"):
        task.solve()


def test_digits_can_be_told_apart_by_planes():
    task = get_task("logistic-digits")
    assert task.inputs.shape == (1437, 64)
    found, error = task.solve()
    assert error <= ACCURACY
    assert 0.05 < found < 0.2


def test_inputs_have_the_condition_number_and_labels_every_class():
    task = synthetic(generator(), features=5, classes=10, condition_number=50.0)
    covariance = task.inputs.T.double() @ task.inputs.double() / EXAMPLES
    eigenvalues = torch.linalg.eigvalsh(covariance)
    assert float(eigenvalues.mean()) == pytest.approx(1, rel=0.15)
    assert float(eigenvalues[-1] / eigenvalues[0]) == pytest.approx(50, rel=0.3)
    assert len(task.labels.unique()) == 10


def test_configurations_span_features_and_classes():
    rng = generator()
    (family,) = PARAMETRIC
    drawn = [family.sample_family(rng).sampler.keywords for _ in range(60)]
    assert {options["classes"] for options in drawn} == set(range(2, 11))
    features = [options["features"] for options in drawn]
    assert 2 <= min(features) < 10
    assert 300 < max(features) <= 1000
    assert all(16 <= options["batch_size"] <= 256 for options in drawn)


def test_a_thousand_features_and_the_hardest_penalty_are_still_certain():
    task = synthetic(generator(), features=1000, classes=10, condition_number=1e3, penalty=1e-4)
    start = task.init(generator())
    assert float(task.normalise(task.loss(start, task.batch(generator())))) == pytest.approx(1, abs=0.05)
    assert task.solve()[1] <= ACCURACY


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "features must be at least 1 and classes at least 2, got 0 and 3"),
        ({"classes": 1}, "features must be at least 1 and classes at least 2, got 4 and 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"penalty": 0.0}, "penalty must be positive and finite, got 0.0"),
        ({"penalty": math.nan}, "penalty must be positive and finite, got nan"),
        ({"condition_number": 0.5}, "condition_number must be finite and at least 1, got 0.5"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.zeros(3, 2), torch.tensor([0, 1]), r"got \(3, 2\) and \(2,\)"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), r"got \(0, 2\) and \(0,\)"),
        (torch.zeros(2, 2), torch.tensor([0, 3]), "got 0 to 3 for 3"),
        (torch.zeros(2, 2), torch.tensor([-1, 0]), "got -1 to 0 for 3"),
    ],
)
def test_bad_examples(inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        LogisticRegression(
            inputs, labels, classes=3, batch_size=2, penalty=0.1, name="bad", description="bad"
        )
