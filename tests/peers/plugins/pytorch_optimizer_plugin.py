"""pytorch-optimizer's tests, on ours: as the one optimizer registered, and as what their wrappers wrap."""

import pytest
import pytorch_optimizer.base.exception
from pytorch_optimizer.optimizer import OPTIMIZERS
from witness import Witness

from learned_opt import FLT

JUDGED = "flt"
WRAPPERS = ("lookahead", "orthograd", "schedulefree")
WRAPPED = ("adamp", "adamw", "lion", "sgd")

# Errors that their package defines where torch has ValueError and RuntimeError: either will do.
for name, of_torch in {"NegativeLRError": ValueError, "NoComplexParameterError": RuntimeError}.items():
    of_theirs = getattr(pytorch_optimizer.base.exception, name)
    setattr(pytorch_optimizer.base.exception, name, (of_theirs, of_torch))

OPTIMIZERS.clear()
OPTIMIZERS[JUDGED] = FLT

from tests.recipes import OPTIMIZER_RECIPES  # noqa: E402 - it reads the registry

OPTIMIZER_RECIPES[:] = [recipe for recipe in OPTIMIZER_RECIPES if recipe[0] in WRAPPERS]
OPTIMIZER_RECIPES.append((JUDGED, {"lr": 0.05, "weight_decay": 1e-3}, 10))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Witness(config, FLT))


def pytest_collection_finish() -> None:
    """Let ours stand for what is wrapped only now, so that no test has a case under each of the names."""
    OPTIMIZERS.update(dict.fromkeys(WRAPPED, FLT))
