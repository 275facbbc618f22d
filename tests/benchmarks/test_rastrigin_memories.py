"""The comparison of memories on Rastrigin functions: how rules are run, and what is made of their gaps."""

from pathlib import Path

import numpy as np
import pytest
import torch

import learned_opt
from benchmarks.rastrigin_memories import Functionwise, Options, end, interval, ratios, recipe
from benchmarks.rastrigin_methods import Functions, learned
from learned_opt import UpdateRule
from learned_opt.checkpoint import save_checkpoint
from meta_train.shootout import CONTENDERS

SHIPPED = Path(learned_opt.__file__).parent / "weights" / "flt-rastrigin"


def test_functions_side_by_side_end_where_each_does_alone() -> None:
    functions = Functions("lois", 4, 3)
    expected = learned(functions, "flt-rastrigin", 12)
    torch.testing.assert_close(end(functions, SHIPPED, 12), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(end(functions, SHIPPED, 6), expected, rtol=1e-3)


@pytest.mark.parametrize("memory", CONTENDERS)
def test_every_memory_can_be_judged(memory: str, tmp_path: Path) -> None:
    functions = Functions("standard", 3, 2)
    config = recipe(memory, 0, Options()).rule
    save_checkpoint(tmp_path, config, UpdateRule(config).init_meta(), {})
    assert end(functions, tmp_path, 5).isfinite().all()


def test_ratios_are_geometric_means_of_mean_gaps() -> None:
    options = Options(memories=("flt", "lstm"), meta_seeds=(0, 1), instances=3)
    row = Functionwise(
        {"flt": np.array([[1.0, 2, 3], [4, 8, 12]]), "lstm": np.array([[2.0, 4, 6], [8, 16, 24]])},
        np.array([4.0, 4, 4]),
    )
    found = ratios([row, row], options)
    assert found["flt"].shape == found["lstm"].shape
    np.testing.assert_allclose(found["flt"][:, 0], 1.0)  # of 1/2 and 2
    against = interval(found["flt"][0] / found["lstm"][0])  # the same resamples, so the same ratio in each
    np.testing.assert_allclose([against.value, against.low, against.high], 0.5)
