import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.benchmark.figures.profiles import RATIOS, profile_shares

STEPS = arrays(np.float64, (4, 3, 2), elements=st.sampled_from([1.0, 2.0, 7.0, 40.0, 100.0, np.inf]))


def test_shares_by_hand():
    steps = np.array([[10.0, 20.0, np.inf], [40.0, 10.0, 10.0]])
    shares = dict(zip(RATIOS, profile_shares(steps).T.tolist(), strict=True))
    assert shares[1.0] == [0.5, 0.5, 0.5]
    assert shares[2.0] == [0.5, 1.0, 0.5]
    assert shares[4.0] == [1.0, 1.0, 0.5]
    assert shares[32.0] == [1.0, 1.0, 0.5]


@given(STEPS)
def test_profiles_rise_to_the_share_of_tasks_that_are_reached(steps):
    shares = profile_shares(steps)
    assert (np.diff(shares, axis=1) >= 0).all()
    reached = np.isfinite(steps).mean(axis=0)
    assert (shares <= reached[:, None]).all()
    some = np.isfinite(steps).any(axis=1).mean(axis=0)
    assert (shares[:, 0].sum(axis=0) >= some - 1e-12).all(), "someone is the fastest wherever anyone is there"


@given(STEPS, st.integers(2, 9))
def test_the_unit_of_a_tasks_steps_does_not_count(steps, factor):
    scaled = steps * np.array([1, factor, 1, 1])[:, None, None]
    np.testing.assert_array_equal(profile_shares(steps), profile_shares(scaled))


def test_without_a_target_there_is_no_share():
    steps = np.array([[[1.0, np.nan], [2.0, np.nan]], [[1.0, 1.0], [1.0, 1.0]]])
    shares = profile_shares(steps)
    assert not np.isnan(shares[..., 0]).any()
    assert np.isnan(shares[..., 1]).all()
