import pytest
import torch

from tasks import get_task
from tasks.image_conv import conv_net


def test_every_convolution_halves_the_image_and_the_net_gives_one_score_a_class() -> None:
    net = conv_net((1, 4, 8), 10)
    features = net[:4](torch.zeros(2, 1, 8, 8))
    assert features.shape == (2, 8, 2, 2)
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_net_without_convolutions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least two numbers, got \[1\]"):
        conv_net((1,), 10)


def test_adam_learns_the_digits() -> None:
    task = get_task("digits-conv")
    generator = torch.Generator().manual_seed(0)
    params = {name: value.requires_grad_() for name, value in task.init(generator).items()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-2)
    before = task.evaluate(params)
    for _ in range(150):
        optimizer.zero_grad()
        task.loss(params, task.batch(generator)).backward()
        optimizer.step()
    after = task.evaluate(params)
    assert after["accuracy"] > 0.6 > before["accuracy"]
