import pytest
import torch
from torch import nn
from torch.func import grad_and_value

from tasks import ClassificationTask, TeacherData, get_task
from tasks.augment import BatchSize, GradientNoise, LossScale, Precision
from tests.tasks.augment.chains import generator, gradient_and_loss


@pytest.mark.parametrize("name", ["teacher", "quadratic"])
def test_loss_scale_multiplies_loss_and_gradient(name):
    task = get_task(name)
    scaled = LossScale(task, 100.0)
    params, batch = scaled.init(generator()), scaled.batch(generator(1))
    slopes, loss = gradient_and_loss(task, params, batch[:-1])
    gradient, value = gradient_and_loss(scaled, params, batch)
    torch.testing.assert_close(value, 100 * loss)
    for key, slope in gradient.items():
        torch.testing.assert_close(slope, 100 * slopes[key])
    torch.testing.assert_close(scaled.normalise(value), task.normalise(loss))


def test_a_scaled_loss_is_still_capped():
    scaled = LossScale(get_task("teacher"), 1e-3)
    awkward = torch.tensor([float("nan"), float("inf"), 3e38])
    torch.testing.assert_close(scaled.normalise(awkward), torch.full((3,), 1.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_computes_the_loss_in_its_type(dtype):
    task = get_task("teacher")
    low = Precision(task, dtype)
    params, (inputs, labels) = low.init(generator()), low.batch(generator(1))
    gradient, value = grad_and_value(low.loss)(params, (inputs, labels))
    cast = {name: part.to(dtype) for name, part in params.items()}
    slopes, loss = grad_and_value(task.loss)(cast, (inputs.to(dtype), labels))
    assert loss.dtype == dtype
    assert value.dtype == torch.float32
    assert value == loss.float()
    exact, _ = grad_and_value(task.loss)(params, (inputs, labels))
    for name, slope in gradient.items():
        assert slope.dtype == torch.float32
        assert torch.equal(slope, slopes[name].float())
        rounding = max(torch.finfo(dtype).eps, 1e-6)
        assert (slope - exact[name]).norm() < 10 * rounding * exact[name].norm()


class Shifted(nn.Linear):
    """A linear layer with a constant offset."""

    def __init__(self):
        super().__init__(16, 10)
        self.register_buffer("offset", torch.full((16,), 0.5))

    def forward(self, inputs):
        return super().forward(inputs + self.offset)


def test_precision_holds_for_buffers_and_normalisation_too():
    options = {"name": "shifted", "description": "one", "default_steps": 10, "learning_rates": (1e-3, 1e-2)}

    def build():
        return nn.Sequential(Shifted(), nn.BatchNorm1d(10))

    low = Precision(ClassificationTask(build, TeacherData(0), 32, **options), torch.bfloat16)
    params, batch = low.init(generator()), low.batch(generator(1))
    loss = low.loss(params, batch)
    assert loss == loss.bfloat16()
    assert loss == pytest.approx(float(low.task.loss(params, batch)), rel=0.05)


def test_batch_size_is_that_of_a_task_built_with_it():
    task = get_task("teacher")
    small = BatchSize(task, 5)
    built = get_task("teacher")
    built.batch_size = 5
    inputs, labels = small.batch(generator(1))
    assert inputs.shape == (5, 16)
    assert torch.equal(inputs, built.batch(generator(1))[0])
    assert small.batches(generator(), 3)[1].shape == (3, 5)
    assert task.batch(generator())[1].shape == (64,)
    params = small.init(generator())
    gradient, value = grad_and_value(small.loss)(params, (inputs, labels))
    slopes, loss = grad_and_value(task.loss)(params, (inputs, labels))
    assert value == loss
    torch.testing.assert_close(gradient, slopes)


def test_batch_size_reaches_through_other_wrappers():
    noisy = GradientNoise(get_task("teacher"), 1.0)
    small = BatchSize(noisy, 5)
    assert small.batch(generator())[0].shape == (5, 16)
    assert noisy.batch(generator())[0].shape == (64, 16)
    assert small.description == f"{noisy.description}, 5 examples a batch instead"


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scales(scale):
    with pytest.raises(ValueError, match="scale of the loss must be positive and finite, got"):
        LossScale(get_task("teacher"), scale)


def test_bad_precisions_and_sizes():
    with pytest.raises(ValueError, match=r"dtype must be one of torch\.bfloat16.*got torch\.int8"):
        Precision(get_task("teacher"), torch.int8)
    with pytest.raises(ValueError, match="size of a batch must be at least 1, got 0"):
        BatchSize(get_task("teacher"), 0)
    with pytest.raises(ValueError, match="batches of 'quadratic' hold no examples"):
        BatchSize(get_task("quadratic"), 8)
