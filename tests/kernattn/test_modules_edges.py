"""Layers in unusual surroundings and of unusual tokens."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev
from torch.testing import assert_close

from kernattn.modules import METHODS, KernelAttention, Layout, make_mixer

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


@each
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("prefix", [0, 1])
def test_what_padding_holds_takes_no_part(method: str, causal: bool, prefix: int) -> None:
    """Neither in outputs nor in the gradients of queries and of what is learned."""
    torch.manual_seed(0)
    mixer = make_mixer(method, 3, 4, Layout(prefix=prefix), causal=causal)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    found = []
    for held in (0.0, float("nan")):
        query, key, value = (normal(2, 3, 7, 4, seed=seed) for seed in range(3))
        key, value = (x.masked_fill(~mask[:, None, :, None], held) for x in (key, value))
        leaves = [query.requires_grad_(), *mixer.parameters()]
        output = mixer(query, key, value, mask=mask)
        slopes = torch.autograd.grad(output.square().sum(), leaves, allow_unused=True, materialize_grads=True)
        found.append((output, *slopes))
    assert_close(found[1], found[0])


@pytest.mark.parametrize("causal", [False, True])
def test_a_prefix_before_a_table_of_lags_costs_no_precision(causal: bool) -> None:
    mixer = make_mixer("nprf", 3, 4, Layout(prefix=1), causal=causal).double()
    plain = make_mixer("nprf", 3, 4, Layout(), causal=causal).double()
    plain.load_state_dict(mixer.state_dict())  # of no bias, so that a prefix is a token like the others
    query, key, value = (normal(2, 3, 7, 4, seed=seed).double() for seed in range(3))
    expected = plain(query, key, value)
    assert_close(mixer(query, key, value), expected, rtol=1e-12, atol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        output = mixer(query.float(), key.float(), value.float())
    assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
