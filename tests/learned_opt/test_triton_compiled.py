"""The kernels of the step through Triton's compiler, for a GPU that need not be there.

What the interpreter cannot see: types that do not fit, names that the compiler reserves, arguments that it
does not take, registers that do not suffice. Nothing is run.
"""

import subprocess

import pytest
import torch

from learned_opt import RuleConfig, UpdateRule
from learned_opt.architecture import LEAN
from learned_opt.backends.in_place import Move
from learned_opt.backends.recipe import recipe_of, sizes_of
from learned_opt.memory import MomentsConfig
from learned_opt.state import new_state

triton = pytest.importorskip("triton")

RULES = {
    "current": (RuleConfig(), torch.float32, torch.float32),
    "delayed": (RuleConfig(statistics="delayed", progress=True), torch.bfloat16, torch.bfloat16),
    "lean": (
        LEAN,
        torch.bfloat16,
        torch.float32,
    ),
    "small": (
        RuleConfig(factored=False, hidden=2, scale="rms", memory=MomentsConfig(betas=(0.9,))),
        torch.float32,
        torch.float16,
    ),
}


class Hopper:
    """As much of a driver as compiling takes."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiler(tmp_path, monkeypatch) -> None:
    from triton.runtime import driver

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(driver, "_active", Hopper())


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_kernels_compile_without_spilling(name, compiler, tmp_path) -> None:
    from learned_opt.backends.triton.batch import WARPS, Batch, Kind
    from learned_opt.backends.triton.numbers import numbers_of

    config, state_dtype, dtype = RULES[name]
    rule = UpdateRule(config)
    param, sizes = torch.zeros(70, 30, dtype=dtype), sizes_of(rule)
    state = new_state(param, rule.floats_per_parameter, state_dtype, statistics=rule.floats_per_tensor)
    move = Move(param, param.clone(), state)
    batch = Batch(Kind.of(move), [tuple(param.shape)], sizes)
    table, numbers = batch.table([move]), numbers_of(recipe_of(rule, rule.init_meta()), sizes)
    kernels = 0
    for kernel, programs, arguments in batch.launches(numbers, table, table.options([move])):
        compiled = kernel.warmup(**arguments, grid=(programs,), num_warps=WARPS)
        path = tmp_path / f"{compiled.metadata.name}.cubin"
        path.write_bytes(compiled.asm["cubin"])
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "-res-usage", str(path)], capture_output=True, text=True, check=True)
        assert "STACK:0 " in usage.stdout, usage.stdout
        assert "LOCAL:0 " in usage.stdout, usage.stdout
        kernels += 1
    assert kernels == (4 if config.statistics == "delayed" else 7)
