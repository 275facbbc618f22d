"""timm's tests of optimizers, on ours: those that take every registered optimizer get ours alone."""

import pytest
import timm.optim
import torch
from witness import Witness

from learned_opt import FLT, LearnedOptimizer
from learned_opt.integrations import register_with_timm

JUDGED = "fltbase"
RATE = 3e-3

register_with_timm()
timm.optim.list_optimizers = lambda *_, **__: [JUDGED]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Witness(config, LearnedOptimizer))


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give ours a row in the table of convergence tests, which has one with the rates of each optimizer."""
    if metafunc.function.__name__ == "test_optimizer_convergence":
        module = metafunc.module
        rows = {JUDGED: module._conv(RATE, {"lr": RATE}), f"lookahead_{JUDGED}": module._conv(RATE)}
        module._CONVERGENCE_CFGS = rows
        metafunc.definition.get_closest_marker("parametrize").args[1][:] = rows


def pytest_collection_finish() -> None:
    """Let ours stand for the plain SGD that the tests of schedulers and checkpoints build."""
    torch.optim.SGD = FLT
