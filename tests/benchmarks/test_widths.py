"""Where a sweep of learning rates is lowest between its rates."""

import math

import pytest

from benchmarks.widths import lowest


def test_the_minimum_of_a_parabola_is_found_between_rates() -> None:
    rates = [1e-3 * 2 ** (k / 2) for k in range(7)]
    losses = [3.0 + 0.2 * math.log(rate / 3.1e-3) ** 2 for rate in rates]
    found = lowest(rates, losses)
    assert found == pytest.approx(3.1e-3)


@pytest.mark.parametrize("losses", [[1.0, 2, 3], [3.0, 2, 1], [2.0, 1, math.inf]])
def test_none_is_found_at_an_end_of_the_sweep_or_beside_a_run_that_diverged(losses: list[float]) -> None:
    assert lowest([1e-3, 2e-3, 4e-3], losses) is None
