"""`differentiable=True`: torch's in-place step under autograd."""

import pytest
import torch
from torch import Tensor

from learned_opt import FLT


def trained(start: Tensor, scale: Tensor, *, steps: int, orthogonalize: bool = False) -> Tensor:
    """Parameters after some steps on ``scale * (p - 1)^2``, with a graph back to the start and the scale."""
    param = start.clone()
    optimizer = FLT([param], lr=0.05, weight_decay=0.1, differentiable=True, orthogonalize=orthogonalize)
    for _ in range(steps):
        param.grad = 2 * scale * (param - 1)
        optimizer.step()
    return param


@pytest.mark.parametrize("orthogonalize", [False, True])
def test_gradients_flow_through_the_steps(orthogonalize) -> None:
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    scale = (0.5 + torch.rand(3, 4, generator=torch.Generator().manual_seed(1))).requires_grad_()

    def loss(start: Tensor, scale: Tensor) -> Tensor:
        return trained(start, scale, steps=3, orthogonalize=orthogonalize).square().sum()

    gradients = torch.autograd.grad(loss(start, scale), (start, scale))
    for index, gradient in enumerate(gradients):
        direction = torch.randn(3, 4, generator=torch.Generator().manual_seed(2 + index))
        values = []
        for shift in (1e-3, -1e-3):  # Newton-Schulz iterations bend sharply
            moved = [start.detach(), scale.detach()]
            moved[index] = moved[index] + shift * direction
            values.append(loss(*moved).double().item())
        torch.testing.assert_close(
            (gradient * direction).sum().item(), (values[0] - values[1]) / 2e-3, rtol=2e-2, atol=5e-3
        )


def test_it_moves_as_the_plain_step_does() -> None:
    start, scale = torch.ones(3, 4) / 2, torch.ones(3, 4)
    param = start.clone().requires_grad_()
    plain = FLT([param], lr=0.05, weight_decay=0.1, orthogonalize=False)
    for _ in range(5):
        param.grad = (2 * scale * (param - 1)).detach()
        plain.step()
    torch.testing.assert_close(param.detach(), trained(start, scale, steps=5))


def test_leaves_that_require_gradients_are_torchs_error() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = FLT([param], differentiable=True)
    param.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="leaf"):
        optimizer.step()
