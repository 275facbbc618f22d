import pytest
import torch
from torch.testing import assert_close

from learned_opt.layout import Layout

SHAPES = [(3, 4), (), (5,), (0,), (2, 3, 2), (1, 4), (4, 1)]


@pytest.fixture
def tensors() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def test_flatten_then_split_gives_the_tensors_back(tensors: list[torch.Tensor]) -> None:
    layout = Layout.of(tensors)
    pieces = layout.split(layout.flatten(tensors, torch.float64))
    assert all(torch.equal(piece, tensor) for piece, tensor in zip(pieces, tensors, strict=True))


def test_split_keeps_leading_axes(tensors: list[torch.Tensor]) -> None:
    layout = Layout.of(tensors)
    pieces = layout.split(torch.stack([layout.flatten(tensors, torch.float64)] * 2))
    assert [tuple(piece.shape) for piece in pieces] == [(2, *shape) for shape in SHAPES]


def test_spread_gives_each_element_its_tensors_column(tensors: list[torch.Tensor]) -> None:
    layout = Layout.of(tensors)
    table = torch.arange(2.0 * len(tensors)).reshape(2, -1)
    expected = torch.cat([table[:, i : i + 1].expand(-1, t.numel()) for i, t in enumerate(tensors)], 1)
    assert torch.equal(layout.spread(table), expected)


def test_spread_leaves_one_column() -> None:
    table = torch.ones(3, 1)
    assert Layout([(4,)]).spread(table) is table


def test_mean_is_each_tensors_mean_and_zero_for_an_empty_one(tensors: list[torch.Tensor]) -> None:
    layout = Layout.of(tensors)
    flat = layout.flatten(tensors, torch.float64)
    expected = torch.stack([t.mean() if t.numel() else torch.zeros((), dtype=t.dtype) for t in tensors])
    assert_close(layout.mean(torch.stack([flat, 2 * flat])), torch.stack([expected, 2 * expected]))


def test_sum_of_columns_adds_up_all_tensors_when_pooled(tensors: list[torch.Tensor]) -> None:
    flat = Layout.of(tensors).flatten(tensors, torch.float64)
    each = torch.stack([tensor.sum() for tensor in tensors])
    assert_close(Layout.of(tensors).sum_of_columns(flat), each)
    assert_close(Layout.of(tensors, pooled=True).sum_of_columns(flat), each.sum()[None])


def test_factored_mean_is_row_mean_times_column_mean_over_mean(tensors: list[torch.Tensor]) -> None:
    layout = Layout.of(tensors)
    factored = layout.split(layout.factored_mean(layout.flatten(tensors, torch.float64)))
    for tensor, estimate in zip(tensors, factored, strict=True):
        if tensor.ndim < 2 or tensor.numel() == 0:
            expected = tensor.mean().expand_as(tensor) if tensor.numel() else tensor
        else:
            matrix = tensor.flatten(1)
            outer = matrix.mean(1)[:, None] * matrix.mean(0)[None] / matrix.mean()
            expected = outer.reshape(tensor.shape)
        assert_close(estimate, expected)


def test_factored_mean_is_exact_for_rank_one() -> None:
    matrix = torch.outer(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0]))
    layout = Layout.of([matrix])
    assert_close(layout.factored_mean(matrix.reshape(-1)), matrix.reshape(-1))


def test_factored_mean_of_zeros_is_zero() -> None:
    assert torch.equal(Layout([(3, 2)]).factored_mean(torch.zeros(6)), torch.zeros(6))
