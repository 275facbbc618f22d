"""The step in Triton on machines without a GPU: in Triton's interpreter, and through its compiler."""

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, RuleConfig, UpdateRule
from learned_opt.backends import get_backend
from learned_opt.backends.triton import update
from learned_opt.memory import LSTMConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_in_the_interpreter(tmp_path) -> None:
    """All of `triton_interpreted`."""
    pytest.importorskip("triton")
    tests = Path(__file__).with_name("triton_interpreted.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(tests)]
    run = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "inner")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""},
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert re.search(r"^\d+ passed in", run.stdout, re.MULTILINE), run.stdout


def test_a_rule_that_it_has_no_step_for_is_refused_by_name() -> None:
    rule = UpdateRule(RuleConfig(memory=LSTMConfig()))
    with pytest.raises(ValueError, match="'triton' has no step for LSTMConfig; expected"):
        get_backend("triton")(rule)


def test_tensors_on_the_cpu_are_refused_where_it_is_forced(make) -> None:
    pytest.importorskip("triton")
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match=r"'triton' cannot update .* \(3,\): it is on cpu.*a CUDA device"):
        make([param], backend="triton").step()
    assert torch.equal(param, torch.ones(3))


@pytest.fixture
def anew():
    """Ask and warn as if for the first time."""
    for known in (update.lacking, update._lack, update._say_once):
        known.cache_clear()
    yield
    for known in (update.lacking, update._lack, update._say_once):
        known.cache_clear()


@pytest.fixture
def no_triton(monkeypatch, anew):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


def test_without_triton_it_says_how_to_get_it(make, no_triton) -> None:
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    with pytest.raises(
        RuntimeError, match="'triton' cannot run: Triton is not installed: pip install triton"
    ):
        make([param], backend="triton").step()


def test_without_triton_the_default_says_so_once(no_triton) -> None:
    on_gpu = update.TritonUpdate(UpdateRule(), forced=False)
    with pytest.warns(UserWarning, match="runs eagerly.*Triton is not installed"):
        assert on_gpu.library() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert on_gpu.library() is None


def test_where_triton_cannot_start_it_says_why_and_runs_eagerly(monkeypatch, anew) -> None:
    runtime = pytest.importorskip("triton.runtime")

    class Broken:
        def get_current_target(self) -> None:
            raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(runtime.driver, "_active", Broken())
    with pytest.warns(
        UserWarning, match=r"runs eagerly.*cannot start \(Failed to find C compiler\); it needs"
    ):
        assert update.TritonUpdate(UpdateRule(), forced=False).library() is None
    with pytest.raises(RuntimeError, match="'triton' cannot run: Triton cannot start"):
        update.TritonUpdate(UpdateRule()).library()


def test_old_gpus_are_left_to_the_eager_step(monkeypatch, anew) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert "is of compute capability 7.5; expected at least 8.0" in update._lack(torch.device("cuda", 0))


def test_by_default_tensors_on_the_cpu_never_come_to_it(make) -> None:
    optimizer: LearnedOptimizer = make([nn.Parameter(torch.ones(3))])
    kinds = {fused.name: fused.device_type for fused in optimizer._update.in_place}
    assert kinds == {"native": "cpu", "triton": "cuda"}
