import pytest
import torch

from tasks import get_task
from tasks.autoencoder import conv_autoencoder, mlp_autoencoder


def test_networks_pass_through_the_code_and_give_back_images():
    images = torch.zeros(2, 1, 8, 8)
    perceptron = mlp_autoencoder(8, (20, 5), "relu")
    widths = [layer.out_features for layer in perceptron[0] if isinstance(layer, torch.nn.Linear)]
    assert widths == [20, 5, 20, 64]
    assert perceptron(images).shape == images.shape
    convolutions = conv_autoencoder(8, (6, 3), "relu")
    assert convolutions[:4](images).shape == (2, 3, 2, 2)
    assert convolutions(images).shape == images.shape
    with pytest.raises(ValueError, match="side must be divisible by 4 for 2 layers, got 10"):
        conv_autoencoder(10, (6, 3), "relu")


def test_the_mean_grey_has_loss_one():
    task = get_task("digits-autoencoder")
    params = {name: torch.zeros_like(value) for name, value in task.init(torch.Generator()).items()}
    everything = next(task.data.chunks("train", 10_000))
    torch.testing.assert_close(task.loss(params, everything), torch.tensor(1.0), rtol=1e-3, atol=0)
    perfect = task.criterion(everything[0], everything[1])
    assert perfect == 0


def test_adam_learns_to_give_back_digits():
    task = get_task("digits-autoencoder")
    rng = torch.Generator().manual_seed(0)
    params = {key: value.requires_grad_() for key, value in task.init(rng).items()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(params, task.batch(rng)).backward()
        optimizer.step()
    assert task.evaluate(params)["loss"] < 0.35
