import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from meta_train.local_group import local_group
from meta_train.ranks import LostProcessError, Ranks


class Fatal:
    """A task that ends the process that unpickles it."""

    def __call__(self, ranks: Ranks) -> None: ...

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return os._exit, (3,)


def tell(ranks: Ranks) -> None:
    ranks.rows([torch.tensor([10.0 + index]) for index in range(5) if ranks.owns(index)], 5)


def fail(ranks: Ranks) -> None:
    raise LostProcessError("told by a test")


def test_rows_come_in_the_order_of_their_units_and_are_counted() -> None:
    threads = torch.get_num_threads()
    with local_group(3, tell, threads=threads) as ranks:
        assert (ranks.rank, ranks.size) == (0, 3)
        rows = ranks.rows([torch.tensor([10.0 + index]) for index in range(5) if ranks.owns(index)], 5)
        assert torch.cat(rows).tolist() == [10.0, 11.0, 12.0, 13.0, 14.0]
        assert ranks.sent == 2 * 2 * 4
    assert not dist.is_initialized()


def test_a_follower_that_dies_before_the_group_met_ends_the_wait() -> None:
    group = local_group(2, Fatal(), threads=torch.get_num_threads())
    with pytest.raises(LostProcessError, match="ended before it began"):
        group.__enter__()


def test_a_follower_that_is_gone_ends_the_next_exchange() -> None:
    with (
        local_group(2, fail, threads=torch.get_num_threads()) as ranks,
        pytest.raises(LostProcessError, match="resume to go on from the last checkpoint"),
    ):
        ranks.agree(True)
