"""How the tensors of a batch are cut over programs, and where each finds its place in the workspace."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from learned_opt.backends.recipe import Sizes

TILE = 4096
"""Elements of a tensor, one after the other, that a program of a pass over tiles takes."""
BLOCK, LIGHT_BLOCK = 256, 512
"""Elements that it holds at once, in the pass that finds directions and in those after `measure`."""
PATCH, NARROW_PATCH = (64, 128), (512, 16)
"""Rows and columns that a program of `measure` takes, of a matrix and of one of few columns."""
HIGH, NARROW_HIGH = 8, 64
"""Rows of these that it holds at once."""
NARROW_BELOW = 64
"""Columns."""
FOLD = 128
"""Rows or columns whose sums one program adds up."""
FIRST_LOG_RMS = 7
"""Floats that are found of a tensor before those of each head; `learned_opt.backends.triton.fields`."""


class Place(NamedTuple):
    """A tensor's row in the table that kernels read, int64. Places in the workspace count its floats.

    Attributes:
        size: Elements.
        rows: Of the matrix that the first pass takes it as.
        columns: Likewise; a vector is cut to the width of a patch.
        matrix: 1 if the second moment is estimated by rows and columns, else 0.
        down: Patches above one another that it is cut into, for the first pass; 0 where that takes tiles.
        across: Patches side by side.
        first_patch: Number of the first program that takes one.
        patch_sums: Where they put their sums.
        tiles: Programs of each other pass.
        first_tile: Number of the first of these.
        tile_sums: Where they put their sums.
        first_fold: Number of the first program that adds up rows or columns; those before look at tensors.
        row_parts: Where patches put sums of rows, ``[across, rows]``.
        column_parts: Where they put sums of columns, ``[down, columns]``.
        row_roots: Where the roots of row means go.
        column_roots: Where the roots of column means go.
        directions: Where directions wait for their tensor's gain.
    """

    size: int
    rows: int
    columns: int
    matrix: int
    down: int
    across: int
    first_patch: int
    patch_sums: int
    tiles: int
    first_tile: int
    tile_sums: int
    first_fold: int
    row_parts: int
    column_parts: int
    row_roots: int
    column_roots: int
    directions: int


@dataclass(frozen=True)
class Geometry:
    """A batch of tensors, cut.

    Attributes:
        places: One a tensor.
        patch_owners: Tensor of each program of a pass over patches.
        tile_owners: Tensor of each program of a pass over tiles.
        fold_owners: Tensor of each program that looks at a tensor, then of each that adds up rows or columns.
        workspace: Floats that a step needs beside the tensors.
    """

    places: tuple[Place, ...]
    patch_owners: tuple[int, ...]
    tile_owners: tuple[int, ...]
    fold_owners: tuple[int, ...]
    workspace: int


def statistics_of(sizes: Sizes) -> int:
    """Floats that are found of each tensor, by `learned_opt.backends.triton.sums`."""
    return FIRST_LOG_RMS + sizes.heads + sizes.averages + 1 + 3 * sizes.waves + sizes.hidden


def sums_of(sizes: Sizes, *, delayed: bool) -> int:
    """Sums that a tile puts down.

    They are of squares of every head's ratio and of directions; where statistics are kept for the next step,
    also of the second moment and of squares of the parameters.
    """
    return sizes.heads + (3 if delayed else 1)


def measured(sizes: Sizes, *, delayed: bool) -> bool:
    """Whether the first pass finds more of a tensor than that its gradient is finite."""
    return bool(sizes.factored) or not delayed


def patch_of(columns: int) -> tuple[int, int]:
    """Rows and columns of a patch of a matrix of so many columns."""
    return NARROW_PATCH if columns < NARROW_BELOW else PATCH


def cut(shapes: Sequence[tuple[int, ...]], sizes: Sizes, *, delayed: bool) -> Geometry:
    """Cut tensors of these shapes.

    Args:
        shapes: Of the tensors, in their order.
        sizes: Of the rule.
        delayed: Whether statistics are those of the step before: directions then wait for nothing.
    """
    places: list[Place] = []
    owners: tuple[list[int], ...] = ([], [], list(range(len(shapes))))
    used = len(shapes) * statistics_of(sizes)
    patched = measured(sizes, delayed=delayed)

    def reserve(floats: int) -> int:
        nonlocal used
        start, used = used, used + floats
        return start

    for index, shape in enumerate(shapes):
        size, matrix = prod(shape), bool(sizes.factored) and len(shape) > 1
        columns = prod(shape[1:]) if matrix else PATCH[1]
        rows = shape[0] if matrix else _pieces(size, columns)
        high, wide = patch_of(columns)
        down, across = (_pieces(rows, high), _pieces(columns, wide)) if patched else (0, 0)
        patches, tiles = down * across, _pieces(size, TILE)
        folds = _pieces(rows, FOLD) + _pieces(columns, FOLD) if matrix and size else 0
        firsts = [len(each) for each in owners]
        for each, count in zip(owners, (patches, tiles, folds), strict=True):
            each.extend([index] * count)
        parts = [
            reserve(floats) for floats in ((across * rows, down * columns, rows, columns) if folds else ())
        ]
        row_parts, column_parts, row_roots, column_roots = parts or [0, 0, 0, 0]
        places.append(
            Place(
                size=size,
                rows=rows,
                columns=columns,
                matrix=int(matrix),
                down=down,
                across=across,
                first_patch=firsts[0],
                patch_sums=reserve(3 * patches),
                tiles=tiles,
                first_tile=firsts[1],
                tile_sums=reserve(sums_of(sizes, delayed=delayed) * tiles),
                first_fold=firsts[2],
                row_parts=row_parts,
                column_parts=column_parts,
                row_roots=row_roots,
                column_roots=column_roots,
                directions=reserve(0 if delayed else size),
            )
        )
    patch_owners, tile_owners, fold_owners = (tuple(each) for each in owners)
    return Geometry(tuple(places), patch_owners, tile_owners, fold_owners, workspace=used)


def _pieces(count: int, size: int) -> int:
    return -(-count // size)
