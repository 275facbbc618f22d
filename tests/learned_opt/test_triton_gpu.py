"""The step in Triton on a GPU, where there is one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from learned_opt import LearnedOptimizer, RuleConfig, UpdateRule
from learned_opt.architecture import LEAN
from learned_opt.backends import get_backend
from learned_opt.memory import FLTConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

SHAPES = [(), (7,), (1023,), (0, 3), (33, 17), (2, 3, 4, 5), (300, 257), (70_001,), (5000, 9)]
RULES = {
    "current": RuleConfig(),
    "delayed": RuleConfig(statistics="delayed"),
    "lean": LEAN,
    "spectrum": replace(LEAN, memory=FLTConfig(reading="spectrum")),
}


def draw(generator: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(shape, generator=generator).to("cuda", dtype) for shape in SHAPES]


@pytest.mark.parametrize("name", RULES)
def test_directions_are_those_of_the_definition(trained, name) -> None:
    rule, generator = UpdateRule(RULES[name]), torch.Generator().manual_seed(0)
    meta, params = trained(rule), draw(generator)
    exact = [param.double() for param in params]
    exact_meta = {key: tensor.to("cuda", torch.float64) for key, tensor in meta.items()}
    fused = get_backend("triton")(rule)
    state, expected = rule.init_state(params), rule.init_state(exact, dtype=torch.float64)
    for step in range(100):
        grads = [grad * 10.0 ** (step % 5 - 2) for grad in draw(generator)]
        if step in (0, 20):
            grads[2][1000] = float("nan")
        directions, state = fused(meta, state, grads, params)
        wanted, expected = rule.update(exact_meta, expected, [grad.double() for grad in grads], exact)
        for direction, each in zip(directions, wanted, strict=True):
            if each.numel():
                assert (direction - each).abs().max() <= 1e-5 * each.abs().max(), (step, each.shape)
        torch.testing.assert_close(state["memory"].double(), expected["memory"], rtol=1e-5, atol=1e-5)
        if "statistics" in expected:
            torch.testing.assert_close(
                state["statistics"].double(), expected["statistics"], rtol=1e-5, atol=1e-4
            )
    assert torch.equal(state["skipped"].double(), expected["skipped"].double())


@pytest.mark.parametrize("name", ["current", "lean"])
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_default_step_is_the_eager_one(trained, dtype, state_dtype, name) -> None:
    rule, generator = UpdateRule(RULES[name]), torch.Generator().manual_seed(1)
    meta, start = trained(rule), draw(generator, dtype)
    models, optimizers = [], []
    for backend in ("eager", "auto"):
        models.append([nn.Parameter(param.clone()) for param in start])
        groups = [
            {"params": models[-1][:3], "weight_decay": 0.1, "maximize": True},
            {"params": models[-1][3:6], "orthogonalize": True},
            {"params": models[-1][6:], "lr": torch.tensor(1e-3, device="cuda")},
        ]
        options = {"lr": 1e-2, "rule": rule, "meta": meta, "state_dtype": state_dtype, "backend": backend}
        optimizers.append(LearnedOptimizer(groups, **options))
    for _ in range(5):
        for index, grad in enumerate(draw(generator, dtype)):
            for params in models:
                params[index].grad = grad
        for optimizer in optimizers:
            optimizer.step()
    (fused,) = (each for each in optimizers[1]._update.in_place if each.name == "triton")
    assert fused._steps._batches
    spacing = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    bound = 2 * max(spacing, 0.0 if state_dtype == torch.float32 else 1e-4)
    for one, other in zip(*models, strict=True):
        torch.testing.assert_close(other, one, rtol=bound, atol=bound)


@pytest.mark.parametrize("name", ["current", "lean"])
def test_a_captured_step_repeats_what_steps_do(make, trained, name) -> None:
    """With a learning rate on the device, which changes between replays."""
    generator = torch.Generator().manual_seed(2)
    start, grads = draw(generator), draw(generator)
    models, optimizers, rates = [], [], []
    rule = UpdateRule(RULES[name])
    meta = trained(rule)
    for _ in range(2):
        rates.append(torch.tensor(1e-2, device="cuda"))
        models.append([nn.Parameter(param.clone()) for param in start])
        optimizers.append(make(models[-1], rates[-1], rule=rule, meta=meta, capturable=True))
        for param, grad in zip(models[-1], grads, strict=True):
            param.grad = grad.clone()
    for optimizer in optimizers:
        optimizer.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizers[0].step()
    for step in range(5):
        fresh = draw(generator)
        for params in models:
            torch._foreach_copy_([param.grad for param in params], fresh)
        for rate in rates:
            rate.fill_(1e-2 / (step + 1))
        graph.replay()
        optimizers[1].step()
    for one, other in zip(*models, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["current", "lean"])
def test_a_step_waits_for_nothing(make, trained, name) -> None:
    rule = UpdateRule(RULES[name])
    params = [nn.Parameter(param) for param in draw(torch.Generator().manual_seed(3))]
    optimizer = make(params, torch.tensor(1e-2, device="cuda"), rule=rule, meta=trained(rule))
    for mode in ("default", "error", "error"):  # at the first step kernels are compiled
        for param in params:
            param.grad = torch.randn_like(param)
        torch.cuda.set_sync_debug_mode(mode)
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
