import pytest
import torch

from tasks import get_task
from tasks.image_conv import NORMS, conv_net, residual_net


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


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_residual_blocks_add_their_branch_to_their_shortcut(norm: str) -> None:
    net = residual_net((1, 4, 8), 10, norm=norm)
    block = net[2]
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), torch.relu(block.branch(x) + block.shortcut(x)))
    assert net[:3](torch.zeros(2, 1, 8, 8)).shape == (2, 8, 4, 4)
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert isinstance(net[1].shortcut, torch.nn.Identity)


def test_group_norm_takes_one_group_where_four_do_not_divide() -> None:
    assert [NORMS["group"](channels).num_groups for channels in (4, 6, 8)] == [4, 1, 4]


@pytest.mark.parametrize("name", ["digits-resnet", "digits-resnet-batchnorm"])
def test_residual_networks_learn_the_digits(name: str) -> None:
    task = get_task(name)
    generator = torch.Generator().manual_seed(0)
    params = {name: value.requires_grad_() for name, value in task.init(generator).items()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        task.loss(params, task.batch(generator)).backward()
        optimizer.step()
    assert task.evaluate(params)["accuracy"] > 0.5


def test_a_residual_net_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least two numbers, got \[1\]"):
        residual_net((1,), 10)
