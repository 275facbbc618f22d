"""A model that moves to another device after its optimizer was made, as Adam allows."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from learned_opt import FLT


def test_state_that_was_laid_out_on_the_meta_device_starts_when_the_model_is_real() -> None:
    param = nn.Parameter(torch.ones(3))
    optimizer = FLT([param])
    optimizer.state[param] = {key: value.to("meta") for key, value in optimizer.state[param].items()}
    param.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.state[param]["step"] == 1
    assert (param < 1).all()


def test_state_follows_its_parameter_to_another_device() -> None:
    optimizer = FLT([nn.Parameter(torch.zeros(1))])
    with FakeTensorMode(allow_non_fake_inputs=True):
        param = nn.Parameter(torch.empty(4, 3, device="cuda"))
        optimizer.add_param_group({"params": [param]})
        optimizer.state[param] = {key: value.cpu() for key, value in optimizer.state[param].items()}
        param.grad = torch.empty_like(param)
        optimizer.step()
        assert {value.device.type for value in optimizer.state[param].values()} == {"cuda"}
