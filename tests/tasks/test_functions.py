import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.functions import (
    DIMENSIONS,
    draw_dimension,
    draw_frame,
    draw_rotation,
    locate,
    orders_of_magnitude,
    spread_eigenvalues,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=50, deadline=None)
@given(dimension=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_rotations_are_orthogonal(dimension, seed):
    rotation = draw_rotation(dimension, generator(seed))
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(dimension, dtype=torch.float64))


def test_rotations_are_uniform():
    rng = generator()
    drawn = torch.stack([draw_rotation(3, rng) for _ in range(4000)])
    error = 1 / math.sqrt(3 * len(drawn))
    assert drawn.mean(0).abs().max() < 4 * error, "a factor Q whose signs are not fixed has a mean"
    assert (drawn.square().mean(0) - 1 / 3).abs().max() < 4 * error


def test_a_rotation_of_a_thousand_dimensions_is_orthogonal():
    rotation = draw_rotation(1000, generator())
    assert (rotation @ rotation.T - torch.eye(1000)).abs().max() < 1e-12


@settings(max_examples=50, deadline=None)
@given(dimension=st.integers(2, 50), condition_number=st.floats(1, 1e8))
def test_eigenvalues_are_as_asked(dimension, condition_number):
    eigenvalues = spread_eigenvalues(dimension, condition_number)
    assert float(eigenvalues.mean()) == pytest.approx(1)
    assert float(eigenvalues[0] / eigenvalues[-1]) == pytest.approx(condition_number)
    steps = eigenvalues.log().diff()
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rotated", [False, True])
def test_a_frame_keeps_distances_to_its_centre(rotated):
    origin = torch.ones(6)
    frame = draw_frame(origin, shift=0.5, rotated=rotated, generator=generator())
    assert len(frame) == 1 + rotated
    assert 0.1 < (frame[0] - origin).abs().max() <= 0.5
    assert not locate(frame[0], *frame).any()
    x = torch.randn(6, generator=generator(1))
    torch.testing.assert_close(locate(x, *frame).norm(), (x - frame[0]).norm())
    assert torch.allclose(locate(x, *frame), x - frame[0]) is not rotated


def test_a_frame_without_shift_is_at_the_origin():
    (centre,) = draw_frame(torch.ones(4), shift=0.0, rotated=False, generator=generator())
    assert torch.equal(centre, torch.ones(4))


def test_dimensions_are_uniform_in_their_logarithm():
    rng = generator()
    drawn = torch.tensor([draw_dimension(rng) for _ in range(3000)])
    low, high = DIMENSIONS
    assert int(drawn.min()) == low
    assert 0.98 * high < int(drawn.max()) <= high
    below = (drawn < math.sqrt(2 * 1001)).float().mean()
    assert below == pytest.approx(0.5, abs=0.04)


def test_orders_of_magnitude_count_alike_and_end():
    losses = 7 * torch.tensor([0.0, 1e-9, 1e-6, 1e-3, 1.0, 1e3, 1e9, math.inf, -math.inf, math.nan])
    expected = torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 1.5, 1.5, 1.5, 1.5])
    torch.testing.assert_close(orders_of_magnitude(losses, 7.0), expected, atol=1e-5, rtol=0)
