import pytest
import torch

from learned_opt.layout import Layout
from learned_opt.rounding import round_to_bfloat16


def values(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, size, generator=generator) * 10.0 ** torch.randint(
        -20, 20, (rows, size), generator=generator
    )


def test_each_value_goes_to_one_of_its_neighbours() -> None:
    exact = values(3, 1000)
    rounded = round_to_bfloat16(exact, torch.tensor([7.0]), Layout([(1000,)]))
    assert rounded.dtype == torch.bfloat16
    bits = exact.view(torch.int32) & ~0xFFFF
    toward_zero, away = bits.view(torch.float32), (bits + 0x10000).view(torch.float32)
    assert ((rounded.float() == toward_zero) | (rounded.float() == away)).all()
    assert (rounded.float() == toward_zero).any()
    assert (rounded.float() == away).any()


def test_what_bfloat16_holds_is_kept() -> None:
    exact = values(2, 500).bfloat16().float()
    exact[:, :3] = torch.tensor([0.0, -0.0, 1.0])
    rounded = round_to_bfloat16(exact, torch.tensor([3.0]), Layout([(500,)]))
    assert torch.equal(rounded.float(), exact)


@pytest.mark.parametrize("value", [1.001, -3.1415926, 2.7e-12])
def test_the_mean_over_steps_and_places_is_the_exact_value(value) -> None:
    exact = torch.full((8, 50), value)
    layout = Layout([(50,)])
    rounded = torch.stack(
        [round_to_bfloat16(exact, torch.tensor([float(step)]), layout).double() for step in range(200)]
    )
    spacing = rounded.max() - rounded.min()
    mean = rounded.mean()
    assert abs(mean - value) <= 4 * spacing / 2 / rounded.numel() ** 0.5
    over_steps = (rounded == rounded.max()).double().mean(0)
    expected = (rounded == rounded.max()).double().mean()
    assert (over_steps - expected).abs().max() <= 5 * (expected * (1 - expected) / 200) ** 0.5


def test_rows_places_and_steps_are_rounded_independently() -> None:
    exact = torch.full((2, 400), 1.0 + 2.0**-8)  # half way between two neighbours
    layout = Layout([(400,)])
    first, second = (round_to_bfloat16(exact, torch.tensor([step]), layout) > 1 for step in (1.0, 2.0))
    for one, other in ((first[0], first[1]), (first[0], second[0]), (first[0, :-1], first[0, 1:])):
        assert abs((one == other).double().mean() - 0.5) < 0.12


def test_bits_do_not_depend_on_the_neighbours_in_the_pack() -> None:
    exact = values(4, 12)
    together = round_to_bfloat16(exact, torch.tensor([5.0, 9.0]), Layout([(2, 3), (6,)]))
    apart = round_to_bfloat16(exact[:, 6:].clone(), torch.tensor([9.0]), Layout([(6,)]))
    assert torch.equal(together[:, 6:], apart)


def test_the_largest_values_stay_finite() -> None:
    largest = torch.full((1, 100), torch.finfo(torch.float32).max)
    rounded = round_to_bfloat16(torch.cat([largest, -largest]), torch.tensor([1.0]), Layout([(100,)]))
    assert rounded.isfinite().all()


def test_a_slow_average_follows_where_rounding_to_nearest_would_freeze() -> None:
    average, frozen = torch.zeros(1, 500).bfloat16(), torch.zeros(1, 500).bfloat16()
    layout = Layout([(500,)])
    for step in range(1, 5001):
        exact = average.float() + 0.001 * (1.0 - average.float())
        average = round_to_bfloat16(exact, torch.tensor([float(step)]), layout)
        frozen = (frozen.float() + 0.001 * (1.0 - frozen.float())).bfloat16()
    truth = 1 - 0.999**5000
    assert abs(average.double().mean() - truth) < 0.01
    assert abs(frozen.double().mean() - truth) > 0.5
