import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.benchmark.figures.metrics import (
    envelope,
    improved,
    interquartile_mean,
    race,
    sensitivity,
    smooth,
    speedup,
    steps_to_target,
)

LINE = np.linspace(1.0, 0.0, 1001)  # falls by 0.001 a step


def test_smoothing_is_a_trailing_mean_over_a_tenth():
    curve = np.arange(20.0)
    expected = [0.0, *(np.arange(1, 20) - 0.5)]
    np.testing.assert_allclose(smooth(curve), expected)
    np.testing.assert_allclose(smooth(np.stack([curve, 2 * curve]))[1], 2 * smooth(curve))


def test_smoothing_keeps_small_losses_beside_large_ones():
    curve = np.concatenate([np.full(100, 1e12), np.full(100, 1e-9)])
    np.testing.assert_allclose(smooth(curve)[-1], 1e-9, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11])
def test_smoothing_short_curves(steps):
    assert smooth(np.ones((3, steps))).shape == (3, steps)


def test_smoothing_is_each_windows_mean():
    curves = np.random.default_rng(0).normal(size=(3, 57))
    expected = [curves[:, max(0, t - 5) : t + 1].mean(1) for t in range(57)]
    np.testing.assert_allclose(smooth(curves), np.stack(expected, axis=1), rtol=1e-12)


def test_steps_to_target_is_the_first_step_at_or_below():
    curve = np.array([3.0, 1.0, 2.0, 0.5])
    targets = np.array([3.0, 2.0, 0.5, 0.4, np.nan])
    assert steps_to_target(curve, targets).tolist() == [1, 2, 4, np.inf, np.inf]


CURVES = arrays(np.float64, (4, 12), elements=st.floats(-10, 10))


@given(CURVES, st.floats(-10, 10))
def test_steps_to_target_inverts_the_running_minimum(curves, target):
    monotone = np.minimum.accumulate(curves, axis=-1)
    np.testing.assert_array_equal(
        steps_to_target(curves, np.full(4, target)), steps_to_target(monotone, np.full(4, target))
    )
    for curve, steps in zip(monotone, steps_to_target(curves, np.full(4, target)), strict=True):
        assert steps == np.searchsorted(-curve, -target) + 1 or (np.isinf(steps) and curve[-1] > target)


@given(CURVES, CURVES)
def test_swapping_the_two_inverts_the_speedup(ours, reference):
    ours[:, 0] = reference[:, 0]
    forth, back = speedup(ours, reference), speedup(reference, ours)
    np.testing.assert_allclose(forth * back, np.where(np.isnan(forth), np.nan, 1.0))
    worse = np.maximum(ours[:, -1], reference[:, -1])
    np.testing.assert_array_equal(np.isnan(forth), worse >= ours[:, 0])
    assert (np.isnan(forth) | ((forth >= 1 / 12) & (forth <= 12))).all()


@given(CURVES, CURVES)
def test_both_reach_the_common_target(ours, reference):
    ours[:, 0] = reference[:, 0]
    target, mine, theirs = race(ours, reference)
    raced = ~np.isnan(target)
    assert (mine[raced] <= 12).all()
    assert (theirs[raced] <= 12).all()
    assert (target[raced] < ours[raced, 0]).all()


@given(arrays(np.float64, 6, elements=st.sampled_from([0.0, 1.0, 2.0, np.inf])), st.randoms())
def test_probabilities_of_improvement_of_both_sum_to_one(losses, random):
    other = np.array(random.sample(losses.tolist(), 6))
    np.testing.assert_array_equal(improved(losses, other) + improved(other, losses), 1.0)


def test_improvement_by_hand():
    assert improved(np.array([1.0, 2.0, 3.0, np.inf]), np.array([2.0, 2.0, 2.0, np.inf])).tolist() == [
        1,
        0.5,
        0,
        0.5,
    ]


def test_twice_as_fast_to_the_same_end_is_a_speedup_of_two():
    ours = np.maximum(1 - 2 * (1 - LINE), 0.0)
    assert speedup(ours, LINE) == pytest.approx(2.0, rel=0.01)


def test_a_lower_end_is_a_race_to_the_higher_one():
    ours = 1 - 3 * (1 - LINE)
    assert speedup(ours, LINE) == pytest.approx(3.0, rel=0.01)


def test_speedup_is_symmetric_and_one_between_equals():
    random = np.random.default_rng(0)
    ours = np.concatenate([[1.0], np.sort(random.uniform(size=400))[::-1]])
    other = np.concatenate([[1.0], np.sort(random.uniform(size=400))[::-1] ** 2])
    assert speedup(ours, other) == pytest.approx(1 / speedup(other, ours))
    assert speedup(ours, ours) == 1.0


def test_an_ending_lower_by_a_hair_is_no_speedup():
    plateau = np.concatenate([np.linspace(1.0, 0.1, 100), np.linspace(0.1, 0.0999, 900)])
    hair_lower = plateau - np.linspace(0, 1e-3, 1000)
    assert speedup(hair_lower, plateau) == pytest.approx(1.0, abs=0.02)


def test_a_race_over_many_decades_is_run_to_its_end():
    steps = np.arange(1000)
    fast, slow = 10.0 ** (-8 * steps / 999), 10.0 ** (-4 * steps / 999)
    assert speedup(fast, slow) == pytest.approx(2.0, rel=0.01)


def test_hardly_any_progress_is_no_match_for_some():
    still = np.linspace(2.303, 2.302, 1000)
    assert speedup(still, np.linspace(2.303, 0.1, 1000)) < 0.003


def test_no_progress_has_no_speedup():
    assert math.isnan(speedup(np.array([1.0, 1.5, 2.0]), np.array([1.0, 0.5, 0.1])))


def test_the_envelope_averages_seeds_before_it_takes_the_lowest(monkeypatch):
    curves = np.array([[[4.0, 0.0], [3.0, 2.0]], [[2.0, 4.0], [3.0, 4.0]]])  # [seeds, settings, steps]
    weights = np.array([[0.5, 0.5], [0.0, 1.0], [0.75, 0.25]])
    expected = [[3.0, 2.0], [2.0, 4.0], [3.0, 1.0]]
    np.testing.assert_allclose(envelope(curves, weights), expected)
    monkeypatch.setattr("tasks.benchmark.figures.metrics.CHUNK_NUMBERS", 1)
    np.testing.assert_allclose(envelope(curves, weights), expected)


def test_sensitivity_is_the_contiguous_range_within_ten_percent():
    losses = {1e-4: 1.0, 1e-3: 1.05, 1e-2: 1.0, 1e-1: 1.2, 1.0: 1.01}
    found = sensitivity({**losses, 1e-3: 1.3, 3e-3: 1.09, 3e-2: 1.08, 1e-4: 5.0, 1e-2: 0.999})
    assert (found.low, found.high, found.open_ended) == (3e-3, 3e-2, False)
    assert found.factor == pytest.approx(10)
    assert sensitivity(losses).open_ended


def test_sensitivity_of_negative_losses_and_divergence():
    found = sensitivity({0.1: -10.0, 1.0: -9.5, 10.0: math.inf})
    assert (found.low, found.high) == (0.1, 1.0)


def test_the_interquartile_mean_drops_the_outer_quarters_on_a_log_scale():
    assert interquartile_mean(np.array([2.0, 0.5])) == pytest.approx(1.0)
    assert interquartile_mean(np.array([1e-6, 2.0, 8.0, 1e6])) == pytest.approx(4.0)
    assert interquartile_mean(np.full((3, 5), 2.0)) == pytest.approx(np.full(5, 2.0))
    assert np.isnan(interquartile_mean(np.array([1e-6, np.nan, 2.0, 8.0, 1e6])))
