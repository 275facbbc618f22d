"""pytorch-optimizer's tests, on ours: as the one optimizer registered, and as what their wrappers wrap."""

import pytest
import pytorch_optimizer.base.exception
from pytorch_optimizer.optimizer import OPTIMIZERS
from witness import Witness

from learned_opt import FLT

JUDGED = "flt"
RATE = 0.05
WRAPPERS = ("lookahead", "orthograd", "schedulefree")
WRAPPED = ("adamp", "adamw", "lion", "sgd")

# Errors that their package defines where torch has ValueError and RuntimeError: either will do.
for name, of_torch in {"NegativeLRError": ValueError, "NoComplexParameterError": RuntimeError}.items():
    of_theirs = getattr(pytorch_optimizer.base.exception, name)
    setattr(pytorch_optimizer.base.exception, name, (of_theirs, of_torch))

FLT.__init__.__defaults__ = (1e-3,)  # of lr, as they presume where they give none
OPTIMIZERS.clear()
OPTIMIZERS[JUDGED] = FLT

from tests.recipes import OPTIMIZER_RECIPES  # noqa: E402 - it reads the registry

# Their recipes give every optimizer a rate of its own; what wrappers wrap is ours, which wants less than 0.5.
OPTIMIZER_RECIPES[:] = [
    (name, {**options, "lr": RATE}, steps) for name, options, steps in OPTIMIZER_RECIPES if name in WRAPPERS
]
OPTIMIZER_RECIPES.append((JUDGED, {"lr": RATE, "weight_decay": 1e-3}, 5))


@pytest.fixture(autouse=True)
def a_rate_that_fits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train ours at its rate where a test has AdamP's, 0.1, for five steps under PCGrad."""
    if request.node.name.startswith("test_pc_grad_optimizers"):
        build = request.module.build_optimizer

        def at_our_rate(*which, **options):
            return build(*which, **{**options, "lr": RATE})

        monkeypatch.setattr(request.module, "build_optimizer", at_our_rate)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Witness(config, FLT))


def pytest_collection_finish() -> None:
    """Let ours stand for what is wrapped only now, so that no test has a case under each of the names."""
    OPTIMIZERS.update(dict.fromkeys(WRAPPED, FLT))
