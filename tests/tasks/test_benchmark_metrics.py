import math

import numpy as np
import pytest

from tasks.benchmark.metrics import (
    RESAMPLES,
    Interval,
    envelope,
    interquartile_mean,
    resampled,
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


def test_steps_to_target_is_the_first_step_at_or_below():
    curve = np.array([3.0, 1.0, 2.0, 0.5])
    assert [steps_to_target(curve, target) for target in (3.0, 2.0, 0.5, 0.4)] == [1, 2, 4, None]


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


def test_the_envelope_averages_seeds_before_it_takes_the_lowest():
    curves = np.array([[[4.0, 0.0], [3.0, 2.0]], [[2.0, 4.0], [3.0, 4.0]]])  # [seeds, settings, steps]
    np.testing.assert_allclose(envelope(curves, np.array([0, 1])), [3.0, 2.0])
    np.testing.assert_allclose(envelope(curves, np.array([1, 1])), [2.0, 4.0])
    np.testing.assert_allclose(envelope(curves, np.array([0, 0, 0, 1])), [3.0, 1.0])


def test_an_interval_brackets_the_mean_and_is_repeatable():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    interval, distribution = resampled(lambda seeds: float(values[seeds].mean()), 5)
    assert interval.value == 3.0
    assert 1.4 <= interval.low <= 2.2
    assert 3.8 <= interval.high <= 4.6
    assert distribution.shape == (RESAMPLES + 1,)
    assert resampled(lambda seeds: float(values[seeds].mean()), 5)[0] == interval


def test_one_seed_has_no_interval():
    interval, distribution = resampled(lambda seeds: 7.0, 1)
    assert interval == Interval(7.0, None, None)
    assert distribution.tolist() == [7.0]


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
