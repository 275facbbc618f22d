"""The Triton kernels in Triton's interpreter against the plain forms. No GPU was used for these tests."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernattn.backend import kernels_for

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "sums",
    "sums that decay",
    "sums of a whole chunk",
    "sums of one token",
    "features",
    "features of queries",
    "features of keys",
    "features of rows",
)


@pytest.fixture(scope="module")
def errors() -> dict[str, list[float]]:
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("triton_cases.py"))],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, list[float]] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_are_those_of_the_plain_form(errors: dict[str, list[float]], name: str) -> None:
    counted = {"sums": 6, "features": 3}.get(name)
    assert counted is None or len(errors[name]) == counted
    assert all(math.isfinite(x) and x < 2e-5 for x in errors[name]), errors[name]


def test_all_cases_are_looked_at(errors: dict[str, list[float]]) -> None:
    assert set(errors) == set(NAMES)


def test_without_a_gpu_the_plain_form_is_taken() -> None:
    assert kernels_for(torch.zeros(3), 16) is None
    meta = torch.zeros(3, device="meta")
    assert kernels_for(meta, 16) is None
