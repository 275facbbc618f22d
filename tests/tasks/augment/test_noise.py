import math

import pytest
import torch
from torch import nn
from torch.func import grad

from tasks import ClassificationTask, TeacherData, get_task
from tasks.augment import GradientNoise, LabelNoise, LossScale, Reparametrised
from tasks.base import instance_generator
from tests.tasks.augment.chains import assert_same, generator, gradient_and_loss


def changed_share(share, *, batches):
    task = get_task("teacher")
    noisy, clean = LabelNoise(task, share), task
    rng = generator(1)
    wrong = count = 0
    for _ in range(batches):
        state = rng.get_state()
        inputs, labels = noisy.batch(rng)
        original_inputs, original = clean.batch(generator().set_state(state))
        assert torch.equal(inputs, original_inputs)
        assert labels.dtype == torch.int64
        assert 0 <= labels.min() <= labels.max() < 10
        wrong += int((labels != original).sum())
        count += len(labels)
    return wrong / count, count


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 1.0])
def test_the_share_of_wrong_labels_is_within_binomial_bounds(share):
    found, count = changed_share(share, batches=200)
    expected = share * 0.9
    assert abs(found - expected) <= 4 * math.sqrt(expected * (1 - expected) / count)


def test_replacements_are_uniform():
    noisy = LabelNoise(get_task("teacher"), 1.0)
    counts = torch.bincount(noisy.batches(generator(), 300)[1].flatten(), minlength=10).double()
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert chi_square < 27.9, "the 99.9 % quantile of 9 degrees of freedom"


def test_validation_labels_are_never_replaced():
    task = get_task("teacher")
    noisy = LabelNoise(task, 1.0)
    assert_same(noisy.batch(generator(), "validation"), task.batch(generator(), "validation"))


def test_labels_are_found_under_what_other_wrappers_append():
    task = get_task("teacher")
    under = LabelNoise(LossScale(task, 2.0), 0.5).batch(generator(1))
    above = LossScale(LabelNoise(task, 0.5), 2.0).batch(generator(1))
    assert_same(under, above)


def test_labels_are_found_before_the_seed_of_dropout():
    def build():
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 10))

    options = {"name": "drop", "description": "one", "default_steps": 10, "learning_rates": (1e-3, 1e-2)}
    task = ClassificationTask(build, TeacherData(0), 200, dropout=True, **options)
    inputs, labels, seed = LabelNoise(task, 1.0).batch(generator(1))
    original_inputs, original, original_seed = task.batch(generator(1))
    assert_same((inputs, seed), (original_inputs, original_seed))
    assert 0.8 < (labels != original).float().mean() < 1


def test_every_token_of_a_text_is_a_label():
    task = get_task("text-gru")
    tokens, targets = LabelNoise(task, 0.5).batch(generator(1))
    original_tokens, original = task.batch(generator(1))
    assert torch.equal(tokens, original_tokens)
    assert targets.shape == original.shape
    assert 0.4 < (targets != original).float().mean() < 0.6


@pytest.mark.parametrize("name", ["teacher", "quadratic", "rastrigin-2"])
def test_gradient_noise_adds_to_the_gradient_and_not_to_the_loss(name):
    task = get_task(name)
    noisy = GradientNoise(task, 2.0)
    params, batch = noisy.init(generator()), noisy.batch(generator(1))
    slopes, loss = gradient_and_loss(task, params, batch[:-1])
    gradient, value = gradient_and_loss(noisy, params, batch)
    assert value == loss
    for key, part in noisy.noise(batch).items():
        torch.testing.assert_close(gradient[key], slopes[key] + part, rtol=1e-12, atol=1e-12)


def test_gradient_noise_has_the_stated_mean_and_deviation():
    task = get_task("quadratic")
    level, draws = 0.5, 4000
    noisy = GradientNoise(task, level)
    noise = noisy.batches(generator(), draws)[-1].double()
    rng = instance_generator(0, "gradient noise")
    start = grad(task.loss)(task.init(rng), task.batch(rng))["x"]
    deviation = level * float(start.square().mean().sqrt())
    assert float(noisy.deviations["x"]) == pytest.approx(deviation)
    assert noise.mean(0).abs().max() < 4.5 * deviation / math.sqrt(draws)
    assert noise.var() == pytest.approx(deviation**2, rel=4 * math.sqrt(2 / noise.numel()))
    neighbours = (noise[1:] * noise[:-1]).mean() / deviation**2
    assert abs(neighbours) < 4 / math.sqrt(noise.numel()), "batches must have noise of their own"


def test_gradient_noise_has_the_tasks_units():
    task = get_task("teacher")
    plain = GradientNoise(task, 1.0)
    scales = {name: torch.tensor(10.0**index) for index, name in enumerate(plain.deviations)}
    elsewhere = GradientNoise(LossScale(Reparametrised(task, scales), 5.0), 1.0)
    for name, deviation in plain.deviations.items():
        torch.testing.assert_close(elsewhere.deviations[name], 5 * scales[name] * deviation)


def test_validation_batches_carry_no_gradient_noise():
    noisy = GradientNoise(get_task("quadratic"), 1.0)
    assert not noisy.batch(generator(), "validation")[-1].any()
    assert noisy.batch(generator(), "train")[-1].all()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_bad_shares(share):
    with pytest.raises(ValueError, match="share of replaced labels must be from 0 to 1, got"):
        LabelNoise(get_task("teacher"), share)


@pytest.mark.parametrize("level", [-1.0, float("nan"), float("inf")])
def test_bad_levels(level):
    with pytest.raises(ValueError, match="level of the gradient noise must be finite and at least 0, got"):
        GradientNoise(get_task("teacher"), level)


@pytest.mark.parametrize("name", ["quadratic", "digits-autoencoder"])
def test_a_task_without_labels_has_no_label_noise(name):
    with pytest.raises(ValueError, match=f"needs a task with labels, and '{name}' has none"):
        LabelNoise(get_task(name), 0.1)


def test_a_first_gradient_that_overflows_cannot_size_noise():
    task = LossScale(LossScale(get_task("teacher"), 1e30), 1e30)
    with pytest.raises(ValueError, match=r"that of '1\.weight' in 'teacher' is not finite"):
        GradientNoise(task, 1.0)
