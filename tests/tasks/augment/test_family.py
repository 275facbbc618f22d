import pickle
from functools import partial

import pytest
import torch

from tasks import ParametricFamily, get_family, get_task
from tasks.augment import Augmentation, GradientNoise, Range, augmented, augmented_configurations
from tasks.base import TaskFamily, draw_seed
from tests.tasks.augment.chains import assert_same, generator, population

EVERYTHING = Augmentation(
    batch_size=8,
    label_noise=Range(0.01, 0.5, 0.5),
    dtype=torch.float64,
    overall=Range(0.1, 10.0, 0.5),
    per_tensor=Range(0.1, 10.0, 0.5),
    per_parameter=Range(0.5, 2.0, 0.5),
    loss_scale=Range(1e-2, 1e2, 0.5),
    gradient_noise=Range(0.01, 1.0, 0.5),
)


def _teacher(generator):
    return get_task("teacher", draw_seed(generator))


TEACHER = TaskFamily("teacher", "teachers", _teacher)


def _configuration(name, generator):
    return TaskFamily(name, "one configuration", _teacher)


def test_tasks_with_and_without_each_augmentation_form_one_population():
    family = pickle.loads(pickle.dumps(augmented(TEACHER, EVERYTHING)))
    rng = generator()
    members = [family.sample(rng) for _ in range(6)]
    assert len({member.description for member in members}) == 6
    (gradients, losses), apart = population(members)
    for index, (gradient, loss) in enumerate(apart):
        torch.testing.assert_close(losses[index], loss, rtol=1e-5, atol=1e-6)
        for name, value in gradient.items():
            torch.testing.assert_close(gradients[name][index], value, rtol=1e-4, atol=1e-5)


def test_seeds_repeat():
    family = augmented(TEACHER, EVERYTHING)
    one, again, other = (family.sample(generator(seed)) for seed in (1, 1, 2))
    assert_same(one.batch(generator()), again.batch(generator()))
    assert one.description == again.description
    assert one.description != other.description


def test_nothing_asked_for_is_nothing_done():
    plain, same = TEACHER.sample(generator(3)), augmented(TEACHER, Augmentation()).sample(generator(3))
    assert type(same) is type(plain)
    assert_same(same.batch(generator()), plain.batch(generator()))


def test_probability_and_range_of_the_noise():
    family = augmented(get_family("quadratic"), Augmentation(gradient_noise=Range(0.1, 10.0, 0.3)))
    rng = generator()
    tasks = [family.sample(rng) for _ in range(300)]
    assert all(isinstance(task, GradientNoise) for task in tasks)
    levels = torch.tensor([task.level for task in tasks])
    share = float((levels > 0).float().mean())
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 300) ** 0.5
    drawn = levels[levels > 0].log10()
    assert -1 <= drawn.min() < -0.7
    assert 0.7 < drawn.max() <= 1
    assert abs(drawn.mean()) < 4 * (1 / 3 / len(drawn)) ** 0.5


@pytest.mark.parametrize(
    ("augmentation", "shapes"),
    [
        (Augmentation(overall=Range(0.1, 10)), "scalar"),
        (Augmentation(per_tensor=Range(0.1, 10)), "scalar"),
        (Augmentation(per_parameter=Range(0.1, 10)), "full"),
    ],
)
def test_scales_have_their_ranges(augmentation, shapes):
    task = augmented(TEACHER, augmentation).sample(generator())
    start = task.init(generator())
    for name, scale in task.scales.items():
        assert scale.shape == (() if shapes == "scalar" else start[name].shape)
        assert 0.1 <= scale.min() <= scale.max() <= 10
    distinct = torch.cat([scale.flatten() for scale in task.scales.values()]).unique()
    counts = {"overall": 1, "per_tensor": len(start)}
    asked = next((key for key in counts if getattr(augmentation, key)), None)
    assert len(distinct) == counts[asked] if asked else len(distinct) > 1000


def test_configurations_have_their_batch_size_and_precision():
    plain = ParametricFamily("networks", "networks", "one", partial(_configuration, "networks"))
    family = augmented_configurations(
        plain, Augmentation(), batch_sizes=(4, 64), dtypes=(torch.float32, torch.bfloat16)
    )
    rng = generator()
    configurations = [pickle.loads(pickle.dumps(family.sample_family(rng))) for _ in range(30)]
    tasks = [configuration.sample(rng) for configuration in configurations]
    sizes = {len(task.batch(rng)[1]) for task in tasks}
    assert len(sizes) > 10
    assert 4 <= min(sizes) <= max(sizes) <= 64
    assert {task.dtype for task in tasks} == {torch.float32, torch.bfloat16}
    assert (family.name, family.sizes) == (plain.name, plain.sizes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Range(0.0, 1.0), r"bounds must be 0 < low <= high, finite, got 0\.0 and 1\.0"),
        (lambda: Range(2.0, 1.0), "bounds must be"),
        (lambda: Range(1.0, float("inf")), "bounds must be"),
        (lambda: Range(1.0, 2.0, 1.5), r"probability must be from 0 to 1, got 1\.5"),
        (lambda: Augmentation(label_noise=Range(0.5, 2.0)), r"shares of at most 1, got 2\.0"),
        (
            lambda: augmented_configurations(None, Augmentation(), batch_sizes=(8, 4)),
            r"batch_sizes must be 1 <= low <= high, got \(8, 4\)",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
