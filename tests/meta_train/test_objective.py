import math

import pytest
import torch

from meta_train.objective import log_ratio, meta_loss, weights
from meta_train.schedules import imitation_weight, longest_horizon, outer_rate
from tasks import get_task


def test_meta_loss_is_one_at_the_start_and_nought_at_nought() -> None:
    task = get_task("digits-mlp-32")
    losses = torch.tensor([0.0, math.log(10), float("nan"), 1e9])
    values = meta_loss(task, losses, compression=0.1)
    torch.testing.assert_close(values[:2], torch.tensor([0.0, 1.0]))
    assert torch.isfinite(values).all()
    assert values[2] == values[3] > 1


def test_log_ratio_is_nought_at_the_first_loss_and_bounded() -> None:
    task = get_task("digits-mlp-32")
    first = task.normalise(torch.tensor(2.0))
    losses = torch.tensor([2.0, 1.0, float("inf"), 0.0])
    values = log_ratio(task, losses, first, compression=0.1)
    assert values[0] == 0
    assert values[3] < values[1] < 0 < values[2]
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("objective", ["mean", "final"])
def test_weights_of_an_episode_sum_to_the_same(objective) -> None:
    horizon, window = torch.tensor([37.0, 60.0]), 10
    total = weights(objective, torch.zeros(2), horizon, 60, window)
    total[37:, 0] = 0
    torch.testing.assert_close(total.sum(0), horizon / window)
    counted = (total > 0).sum(0)
    assert counted.tolist() == ([37, 60] if objective == "mean" else [4, 6])
    parts = torch.cat(
        [weights(objective, torch.full((2,), step), horizon, 10, window) for step in (0, 10, 20)]
    )
    torch.testing.assert_close(parts, total[:30])


def test_horizons_grow_in_equal_ratios() -> None:
    assert [longest_horizon(step, 100, (10, 1000), growth=0.5) for step in (0, 25, 50, 99)] == [
        10,
        100,
        1000,
        1000,
    ]
    assert longest_horizon(0, 100, (10, 1000), growth=0.0) == 1000


def test_rates_warm_up_and_fall() -> None:
    rates = [outer_rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.5, rel=0.01)
    assert max(rates) == rates[1]
    assert rates[-1] == pytest.approx(0.05, abs=0.01)
    assert [imitation_weight(step, weight=2.0, steps=4) for step in (0, 2, 4, 9)] == [2.0, 1.0, 0.0, 0.0]
    assert imitation_weight(0, weight=2.0, steps=0) == 0.0
