"""The state of some of the tensors of a layout, and the state of all put together from such parts."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from learned_opt.layout import Layout

State = dict[str, Tensor]
T = TypeVar("T")
Members = Sequence[int]
"""Places of some of the tensors."""
COUNTS = ("step", "skipped")
"""What of a state is counted for all tensors together where a layout is pooled."""


def selected(state: State, layout: Layout, members: Members) -> State:
    """The state of some of the tensors, in their order.

    Args:
        state: Of all: ``memory`` ``[S, N]``, everything else ``[..., columns]``.
        layout: Of all.
        members: Which.
    """
    chosen: State = {}
    for key, rows in state.items():
        if _shared(key, layout):
            chosen[key] = rows
            continue
        pieces = _pieces(key, rows, layout.sizes)
        chosen[key] = torch.cat([pieces[index] for index in members], -1)
    return chosen


def put_together(parts: Sequence[tuple[Members, State]], layout: Layout) -> State:
    """The state of all tensors.

    Args:
        parts: Members and their state, as from `selected`; every tensor is in one part.
        layout: Of all.
    """
    whole: State = {}
    for key, first in parts[0][1].items():
        if _shared(key, layout):
            whole[key] = first
            continue
        found: dict[int, Tensor] = {}
        for members, state in parts:
            pieces = _pieces(key, state[key], [layout.sizes[index] for index in members])
            found.update(zip(members, pieces, strict=True))
        whole[key] = torch.cat([found[index] for index in range(len(layout.sizes))], -1)
    return whole


def of_columns(table: T, layout: Layout, members: Members) -> T | Tensor:
    """The columns of some tensors, of a table that has one for each of several; anything else as it is."""
    if layout.pooled or not isinstance(table, Tensor) or table.ndim == 0 or table.shape[-1] == 1:
        return table
    return torch.stack([table[..., index] for index in members], dim=-1)


def _pieces(key: str, rows: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    return rows.split_with_sizes(list(sizes) if key == "memory" else [1] * len(sizes), dim=-1)


def _shared(key: str, layout: Layout) -> bool:
    return layout.pooled and key in COUNTS
