import numpy as np
import pytest
import scipy.stats

from tasks.benchmark.figures.metrics import Interval
from tasks.benchmark.figures.resampling import CONFIDENCE, RESAMPLES, intervals


def mean_of(values):
    """A task whose only figure is the mean of one value a seed."""
    return lambda weights: {"mean": weights @ values}


def test_the_means_of_two_tasks_agree_with_scipys_own_bootstrap():
    values = [np.array([1.0, 2.0, 4.0, 8.0]), np.array([3.0, -1.0, 0.5, 0.0])]
    found = intervals(
        [mean_of(row) for row in values],
        4,
        lambda figures: {"product": figures[0]["mean"] * figures[1]["mean"], "first": figures[0]["mean"]},
    )
    outcome = scipy.stats.bootstrap(
        tuple(np.arange(4) for _ in values),
        lambda a, b: values[0][a].mean() * values[1][b].mean(),
        vectorized=False,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(0),
    )
    low, high = outcome.confidence_interval
    assert found["product"].value == pytest.approx(3.75 * 0.625)
    assert (found["product"].low, found["product"].high) == pytest.approx((low, high))
    assert found["first"].low < found["first"].value == 3.75 < found["first"].high


def test_each_multiset_of_seeds_is_figured_once():
    asked = []

    def figure(weights):
        asked.append(weights)
        return {"mean": weights @ np.arange(3.0)}

    intervals([figure], 3, lambda figures: figures[0])
    plain, resampled = asked
    np.testing.assert_allclose(plain, np.full((1, 3), 1 / 3))
    assert len(resampled) == len({tuple(row) for row in resampled}) == 10
    np.testing.assert_allclose(resampled.sum(axis=1), 1.0)


def test_tasks_are_resampled_independently():
    """The mean of many tasks is known better than one: the same draws in each would hide that."""
    values = np.arange(5.0)
    one = intervals([mean_of(values)], 5, lambda figures: figures[0])["mean"]
    many = intervals(
        [mean_of(values)] * 16, 5, lambda figures: {"mean": np.mean([row["mean"] for row in figures], axis=0)}
    )["mean"]
    assert one.value == many.value == 2.0
    assert (many.high - many.low) == pytest.approx((one.high - one.low) / 4, rel=0.1)


def test_a_figure_that_is_not_finite_on_some_resample_is_none_and_spoils_no_other():
    def figure(weights):
        mean = weights @ np.arange(3.0)
        return {"mean": mean, "bad": np.where(mean < 0.5, np.nan, mean), "worse": np.full_like(mean, np.inf)}

    found = intervals([figure], 3, lambda figures: figures[0])
    assert found["bad"] is None
    assert found["worse"] is None
    assert found["mean"].low < 1 < found["mean"].high


def test_one_seed_has_no_interval():
    def figure(weights):
        return {"mean": weights @ np.array([7.0]), "bad": np.array([np.nan])}

    assert intervals([figure], 1, lambda figures: figures[0]) == {"mean": Interval(7.0), "bad": None}
    assert intervals([figure], 1, lambda figures: {}) == {}


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        tasks = random.normal(1.0, [[1.0], [2.0], [3.0], [4.0]], size=(4, 10))
        found = intervals(
            [mean_of(row) for row in tasks],
            10,
            lambda figures: {"mean": np.mean([row["mean"] for row in figures], axis=0)},
        )["mean"]
        covered += found.low <= 1.0 <= found.high
    assert 85 <= covered <= 99
