"""A small model, its training and how two runs of it are compared: what the tests of the optimizer share."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learned_opt import LearnedOptimizer, UpdateRule


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """The same small network each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batch(seed: int, rows: int = 16) -> Tensor:
    """Inputs ``[rows, 6]`` that the seed draws."""
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Mean squared error against the first three inputs."""
    return (model(inputs) - inputs[:, :3]).square().mean()


def backward(model: nn.Module, seed: int) -> Tensor:
    """Fill the gradients from a batch that the seed draws, and return its loss."""
    model.zero_grad()
    loss = loss_of(model, batch(seed).to(next(model.parameters()).dtype))
    loss.backward()
    return loss.detach()


def train(model: nn.Module, optimizer: Optimizer, seeds: range) -> None:
    """Take one step on the batch of each seed."""
    for seed in seeds:
        backward(model, seed)
        optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    """Copies of the parameters."""
    return [param.detach().clone() for param in model.parameters()]


def snapshot(optimizer: Optimizer) -> list[Tensor]:
    """Copies of all tensors of the state."""
    return [tensor.clone() for state in optimizer.state.values() for tensor in state.values()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether the two hold equal tensors."""
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def require_the_same_rounding(rule: UpdateRule, backend: str, rows: int) -> None:
    """A bfloat16 memory is rounded as in the eager step, bit for bit.

    Where what is to be rounded is exact in float32: the first gradient, of which every average is it.
    """
    meta, start = rule.init_meta(), torch.randn(rows, 7, generator=torch.Generator().manual_seed(2))
    memories = []
    for name in ("eager", backend):
        param = nn.Parameter(torch.zeros(rows, 7))
        optimizer = LearnedOptimizer([param], rule=rule, meta=meta, backend=name, state_dtype=torch.bfloat16)
        param.grad = start
        optimizer.step()
        memories.append(optimizer.state[param]["memory"])
    assert torch.equal(memories[0][:3], memories[1][:3])
    assert torch.equal(memories[0][-1], memories[1][-1])
    assert not torch.equal(memories[0][0], start.bfloat16())
