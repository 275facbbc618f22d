"""Which parameters it takes: dtypes, memory formats, frozen ones, late ones."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learned_opt import UpdateRule
from learned_opt.architecture import SHAPED
from tests.learned_opt.training import backward, network, same, snapshot, train, weights

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def draws(shape: tuple[int, ...], count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
def test_the_memory_is_of_state_dtype_whatever_the_parameters_are(make, dtype, state_dtype) -> None:
    model = network(dtype)
    optimizer = make(model.parameters(), weight_decay=0.01, state_dtype=state_dtype)
    start = backward(model, 0)
    train(model, optimizer, range(30))
    assert backward(model, 0) < start
    for param in model.parameters():
        assert param.dtype == dtype
        assert {key: tensor.dtype for key, tensor in optimizer.state[param].items()} == {
            "step": torch.float32,
            "skipped": torch.float32,
            "memory": state_dtype,
        }


def test_parameters_of_several_dtypes_do_not_disturb_each_other(make) -> None:
    def params() -> list[Tensor]:
        return [torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4).requires_grad_() for dtype in DTYPES]

    together, apart = params(), params()
    optimizers = [make(together), *(make([param]) for param in apart)]
    for grad in draws((3, 4), 5):
        for param in (*together, *apart):
            param.grad = grad.to(param.dtype)
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b)


def test_the_default_dtype_does_not_matter(make) -> None:
    param = torch.ones(3, requires_grad=True)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        optimizer = make([param])
        param.grad = torch.ones_like(param)
        optimizer.step()
    finally:
        torch.set_default_dtype(before)
    assert {tensor.dtype for tensor in optimizer.state[param].values()} == {torch.float32}


def test_the_default_device_does_not_matter(make) -> None:
    inside, outside = network(), network()
    with torch.device("meta"):
        rule = UpdateRule(SHAPED)
        optimizer = make(inside.parameters(), rule=rule, meta=rule.init_meta())
    other = make(outside.parameters(), rule=rule, meta=rule.init_meta())
    for seed in range(3):
        backward(inside, seed)
        backward(outside, seed)
        with torch.device("meta"):
            optimizer.step()
        other.step()
    assert same(weights(inside), weights(outside))


def test_lazy_parameters_get_their_state_when_they_are_there(make) -> None:
    lazy, plain = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.Linear(8, 3)), network()
    optimizer = make(lazy.parameters())
    assert len(optimizer.state_dict()["state"]) == 2
    lazy(torch.zeros(1, 6))
    lazy.load_state_dict(plain.state_dict())
    train(lazy, optimizer, range(3))
    train(plain, make(plain.parameters()), range(3))
    assert same(weights(lazy), weights(plain))


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_options_may_be_numpys(make, backend) -> None:
    model, plain = network(), network()
    options = {"lr": np.float32(0.5), "weight_decay": np.float32(0.25)}
    train(model, make(model.parameters(), **options, backend=backend), range(3))
    train(plain, make(plain.parameters(), lr=0.5, weight_decay=0.25, backend=backend), range(3))
    assert same(weights(model), weights(plain))


def test_strided_scalar_and_empty_parameters(make) -> None:
    generator = torch.Generator().manual_seed(0)
    strided = torch.randn(4, 6, generator=generator).t().requires_grad_()
    image = (
        torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
    )
    scalar, empty = torch.tensor(1.0, requires_grad=True), torch.zeros(0, 3, requires_grad=True)
    params = [strided, scalar, empty, image]
    plain = [param.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for param in params]
    first, second = make(params), make(plain)
    for _ in range(3):
        for param, other in zip(params, plain, strict=True):
            other.grad = torch.randn(param.shape, generator=generator)
            param.grad = torch.empty_like(param).copy_(other.grad)
        first.step()
        second.step()
    assert same([param.detach() for param in params], [param.detach() for param in plain])
    assert strided.stride() == (1, 6)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert first.state[scalar]["memory"].shape == (8,)
    assert first.state[empty]["memory"].shape == (8, 0, 3)


GRADIENTS = {
    "contiguous": lambda grad: grad,
    "channels last": lambda grad: grad.to(memory_format=torch.channels_last),
    "strided": lambda grad: torch.stack([grad, grad], -1)[..., 0],
    "expanded": lambda grad: grad[:1, :1, :1, :1].expand(grad.shape),
}


@pytest.mark.parametrize("form", GRADIENTS)
@pytest.mark.parametrize("orthogonalize", [False, True])
def test_the_strides_of_a_gradient_do_not_matter(make, form, orthogonalize) -> None:
    params = [torch.ones(2, 3, 4, 4, requires_grad=True) for _ in range(3)]
    params[1] = params[1].detach().to(memory_format=torch.channels_last).requires_grad_()
    first, second = (make(each, orthogonalize=orthogonalize) for each in (params[:2], params[2:]))
    for drawn in draws((2, 3, 4, 4), 3):
        grad = GRADIENTS[form](drawn)
        params[0].grad = params[1].grad = grad
        params[2].grad = grad.clone(memory_format=torch.contiguous_format)
        first.step()
        second.step()
    assert torch.equal(params[0], params[2])
    assert torch.equal(params[1], params[2])


@pytest.mark.parametrize("maximize", [False, True])
def test_gradients_and_frozen_parameters_are_left_alone(make, maximize) -> None:
    model = network()
    model[0].bias.requires_grad_(False)
    optimizer = make(model.parameters(), maximize=maximize, orthogonalize=True, weight_decay=0.1)
    assert model[0].bias not in optimizer.state
    backward(model, 0)
    model[2].bias.grad = None
    before = weights(model)
    grads = {param: param.grad.clone() for param in model.parameters() if param.grad is not None}
    optimizer.step()
    assert all(torch.equal(param.grad, grad) for param, grad in grads.items())
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [True, False, True, False]
    assert optimizer.state[model[2].bias]["step"] == 0

    model[0].bias.requires_grad_(True)
    backward(model, 1)
    optimizer.step()
    assert optimizer.state[model[0].bias]["step"] == 1


def test_a_frozen_parameter_goes_on_from_where_it_stopped(make) -> None:
    model, alone = network(), network()
    layer, twin = model[2], alone[2]
    optimizer, other = make(model.parameters()), make(twin.parameters())
    for seed in range(9):
        frozen = 3 <= seed < 6
        layer.requires_grad_(not frozen)
        backward(model, seed)
        optimizer.step()
        assert (layer.weight.grad is None) == frozen
        if not frozen:
            for param, same_param in zip(layer.parameters(), twin.parameters(), strict=True):
                same_param.grad = param.grad.clone()
            other.step()
    assert optimizer.state[layer.weight]["step"] == 6
    assert same(weights(layer), weights(twin))


def test_a_gradient_on_a_frozen_parameter_moves_it_as_in_torch(make) -> None:
    param = torch.ones(3)
    optimizer = make([param])
    assert not optimizer.state
    param.grad = torch.ones(3)
    optimizer.step()
    assert (param < 1).all()


def test_parameters_that_come_later_start_as_at_the_beginning(make) -> None:
    model, alone = network(), network()
    optimizer = make(model[0].parameters(), weight_decay=0.1)
    train(model, optimizer, range(3))
    late = {"lr": 3e-3, "weight_decay": 0.2, "maximize": True}
    optimizer.add_param_group({"params": model[2].parameters(), **late})
    other = make(alone[2].parameters(), **late)
    for seed in range(3, 6):
        backward(model, seed)
        for param, twin in zip(model[2].parameters(), alone[2].parameters(), strict=True):
            twin.grad = param.grad.clone()
        optimizer.step()
        other.step()
    assert same(weights(model[2]), weights(alone[2]))
    assert same(snapshot(optimizer)[-6:], snapshot(other))
    assert [float(state["step"]) for state in optimizer.state.values()] == [6, 6, 3, 3]
