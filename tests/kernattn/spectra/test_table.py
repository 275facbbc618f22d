import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernattn import PositionTable, grid_lags, pairwise_lags, relative_log_mask, toeplitz_matrix


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=3), st.integers(0, 10**6)
)
def test_a_grid_of_frequencies_gives_the_table_itself(axes: list[tuple[int, int]], seed: int) -> None:
    """However long the table and the sequence, and however many axes: equal to 1e-10, with half the grid."""
    length, reach = zip(*axes, strict=True)
    exact = PositionTable(normal(2, *(2 * k + 1 for k in reach), seed=seed))
    position = torch.cartesian_prod(*(torch.arange(n) for n in length)).view(-1, len(axes))
    samples = exact.exact_samples(length)
    points = math.prod(n + k for n, k in axes)
    assert samples.frequency.shape[1] <= points // 2 + points // (length[-1] + reach[-1])
    assert samples.frequency.abs().max() <= 0.5
    expected = relative_log_mask(exact, position)
    torch.testing.assert_close(samples.log_mask(pairwise_lags(position)), expected, rtol=0, atol=1e-10)


def test_positive_lags_are_queries_after_their_keys() -> None:
    exact = PositionTable(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    mask = relative_log_mask(exact, torch.arange(4)[:, None])[0]
    expected = [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [0, 5, 4, 3]]
    assert mask.tolist() == expected
    assert torch.equal(mask, toeplitz_matrix(exact.log_mask(grid_lags([4])))[0])


def test_real_lags_are_interpolated_as_samples_are() -> None:
    exact = PositionTable(normal(1, 5, 3, seed=1))
    integers = torch.tensor([[0, 1], [-2, -1], [2, 0], [3, 1]])
    torch.testing.assert_close(exact.log_mask(integers.double()), exact.log_mask(integers))


def test_ratios_are_linear_in_the_table() -> None:
    bias = normal(2, 7, seed=2)
    first, second = (
        PositionTable(scale * bias).sample(5, generator=torch.Generator().manual_seed(0)) for scale in (1, -3)
    )
    torch.testing.assert_close(second.ratio_real, -3 * first.ratio_real)
    torch.testing.assert_close(second.ratio_imag, -3 * first.ratio_imag)
    even = PositionTable(bias + bias.flip(-1)).sample(5)
    assert even.ratio_imag.abs().max() < 1e-12


def test_amplitude_is_at_most_the_root_of_the_sum_of_squares() -> None:
    bias = normal(4, 9, 5, seed=3)
    assert (PositionTable(bias).amplitude() <= bias.square().sum(dim=(1, 2)).sqrt()).all()
    one = torch.zeros(1, 9, dtype=torch.float64)
    one[0, 2] = -2.0
    torch.testing.assert_close(PositionTable(one).amplitude(), torch.tensor([2.0], dtype=torch.float64))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"bias must be \[H, 2 K_1 \+ 1, .* got shape \[2, 4\]"):
        PositionTable(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"got shape \[5\]"):
        PositionTable(torch.zeros(5))
    table = PositionTable(torch.zeros(2, 5, 5))
    with pytest.raises(ValueError, match=r"length must be l = 2 numbers of at least 1, got \[4\]"):
        table.exact_samples([4])
    with pytest.raises(ValueError, match=r"lag must be \[..., l\] with l = 2, got \[3, 1\]"):
        table.log_mask(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="no orthogonal samples: a cube of frequencies has no rotations"):
        table.sample(4, orthogonal=True)
