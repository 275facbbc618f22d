"""Outputs of attention with their gradients, and how near two of them must be."""

from collections.abc import Callable

import torch
from torch import Tensor


def with_gradients(function: Callable[..., Tensor], *arguments: Tensor) -> list[Tensor]:
    """The output and the gradient of a fixed random projection of it in every argument."""
    leaves = [x.detach().clone().requires_grad_() for x in arguments]
    output = function(*leaves)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return [output.detach(), *torch.autograd.grad((output * direction).sum(), leaves)]


def assert_near(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Of one shape, and within a tolerance, of the largest element where that is more than 1."""
    for index, (left, right) in enumerate(zip(actual, expected, strict=True)):
        assert left.shape == right.shape
        error = (left.double() - right.double()).abs().max()
        assert error <= tolerance * max(1.0, float(right.abs().max())), (index, error)
