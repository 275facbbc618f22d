"""`torch.compile(optimizer.step)`: one graph, no break, none anew as the learning rate moves."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.lr_scheduler import CosineAnnealingLR

from learned_opt import FLT


def twin_models() -> tuple[nn.Module, nn.Module]:
    models = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            models.append(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)))
    return models[0], models[1]


@pytest.mark.parametrize("tensor_lr", [True, False])
@pytest.mark.parametrize(("orthogonalize", "factor"), [(False, 1), (True, 10)])
def test_the_step_compiles_once_and_equals_eager(tensor_lr, orthogonalize, factor) -> None:
    """Newton-Schulz iterations enlarge what is rounded otherwise, by some ``factor``."""
    torch.compiler.reset()
    counter = CompileCounterWithBackend("inductor")
    models = twin_models()
    lr = (lambda: torch.tensor(1e-2)) if tensor_lr else (lambda: 1e-2)
    options = {"weight_decay": 0.1, "orthogonalize": orthogonalize}
    optimizers = [FLT(model.parameters(), lr(), **options) for model in models]
    schedulers = [CosineAnnealingLR(optimizer, 20) for optimizer in optimizers]
    steps = [optimizers[0].step, torch.compile(optimizers[1].step, backend=counter)]
    generator = torch.Generator().manual_seed(1)
    for _ in range(12):
        batch = torch.randn(8, 5, generator=generator)
        for model, optimizer, scheduler, step in zip(models, optimizers, schedulers, steps, strict=True):
            optimizer.zero_grad()
            (model(batch) - 1).square().mean().backward()
            step()
            scheduler.step()
    assert counter.frame_count == (1 if tensor_lr else 2)  # of a float, the second value makes it dynamic
    for eager, compiled in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4 * factor, atol=1e-6 * factor)
    for eager, compiled in zip(*(optimizer.state.values() for optimizer in optimizers), strict=True):
        torch.testing.assert_close(
            compiled["memory"], eager["memory"], rtol=1e-4 * factor, atol=1e-7 * factor
        )
        assert compiled["step"] == eager["step"] == 12


def test_the_step_never_waits_for_the_device() -> None:
    """Under fake tensors any look at a value is an error, as it would be in the capture of a CUDA graph."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    optimizer = FLT([nn.Parameter(torch.zeros(1))], weight_decay=0.1, capturable=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        params = [nn.Parameter(torch.empty(shape, device="cuda")) for shape in ((7, 3), (7,), ())]
        optimizer.add_param_group({"params": params})
        optimizer.param_groups[1]["lr"] = torch.empty((), device="cuda")
        for param in params:
            param.grad = torch.empty_like(param)
        with pytest.raises(DataDependentOutputException):
            bool(params[0].grad.any())
        optimizer.step()
        assert {optimizer.state[param]["memory"].device.type for param in params} == {"cuda"}
