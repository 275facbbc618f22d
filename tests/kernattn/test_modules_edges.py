"""Layers in unusual surroundings and of unusual tokens."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev
from torch.testing import assert_close

from kernattn.modules import METHODS, KernelAttention

each = pytest.mark.parametrize("method", METHODS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@each
def test_a_layer_learns_after_it_was_used_in_inference_mode(method: str) -> None:
    layer, x = KernelAttention(12, 3, method=method), normal(2, 5, 12)
    with torch.inference_mode():
        expected = layer(x)
    output = layer(x.requires_grad_())
    assert_close(output, expected)
    output.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("method", [method for method in METHODS if method != "softmax"])
def test_a_layer_that_has_drawn_nothing_yet_goes_through_nested_transforms(method: str) -> None:
    """Exact attention has no second derivative in torch on the CPU."""
    layer, x = KernelAttention(12, 3, method=method), normal(2, 5, 12)
    params = {name: param.detach() for name, param in layer.named_parameters()}

    def loss(scale: Tensor) -> Tensor:
        output: Tensor = functional_call(layer, params, (scale * x,))
        return output.square().sum()

    one = torch.tensor(1.0)
    curvature = grad(grad(loss))(one)
    assert_close(jacrev(jacrev(loss))(one), curvature)
    layer(x).sum().backward()
