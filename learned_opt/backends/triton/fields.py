"""Columns of the tables that kernels read, as constants of Triton, and how they are read."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-incomplete-defs
# mypy: disable-error-code=assignment

import triton
import triton.language as tl

from learned_opt.backends.triton.geometry import FIRST_LOG_RMS, Place
from learned_opt.backends.triton.tables import Address, Option


def _column(table: type, name: str) -> tl.constexpr:
    return tl.constexpr(table._fields.index(name))  # type: ignore[attr-defined]


PLACES = tl.constexpr(len(Place._fields))
SIZE, ROWS, COLUMNS, MATRIX = (_column(Place, name) for name in ("size", "rows", "columns", "matrix"))
DOWN, ACROSS = (_column(Place, name) for name in ("down", "across"))
FIRST_PATCH, PATCH_SUMS = (_column(Place, name) for name in ("first_patch", "patch_sums"))
TILES, FIRST_TILE, TILE_SUMS = (_column(Place, name) for name in ("tiles", "first_tile", "tile_sums"))
FIRST_FOLD, DIRECTIONS = (_column(Place, name) for name in ("first_fold", "directions"))
ROW_PARTS, COLUMN_PARTS = (_column(Place, name) for name in ("row_parts", "column_parts"))
ROW_ROOTS, COLUMN_ROOTS = (_column(Place, name) for name in ("row_roots", "column_roots"))

ADDRESSES = tl.constexpr(len(Address._fields))
PARAM, GRAD, MEMORY = (_column(Address, name) for name in ("param", "grad", "memory"))
STEP, SKIPPED = (_column(Address, name) for name in ("step", "skipped"))
KEPT, OUTPUT = (_column(Address, name) for name in ("statistics", "direction"))

OPTIONS = tl.constexpr(len(Option._fields))
SIGN, LR, WEIGHT_DECAY = (_column(Option, name) for name in ("sign", "lr", "weight_decay"))
TOTAL_STEPS, FIRST_LOG_GAIN = (_column(Option, name) for name in ("total_steps", "log_gain"))
VECTOR, EXTENT = (_column(Option, name) for name in ("vector", "extent"))

# What is found of a tensor: whether its gradient counts; the number of this step; what is added to a root
# second moment; one over the RMS of the parameter; the root mean second moment of a vector, or one over that
# of a matrix, where there are estimates by rows and columns; the gain of directions; the mean square of
# Adam's. Then the log RMS of every head, what the memory is advanced with, the bias of the hidden layer.
LIVE, COUNTED, FLOOR, INVERSE_SIZE, FACTOR, GAIN, ADAM = (tl.constexpr(i) for i in range(FIRST_LOG_RMS))
LOG_RMS = tl.constexpr(FIRST_LOG_RMS)


@triton.jit
def tile_length(size, tile, TILE: tl.constexpr):
    """Elements of a tile: all but a tensor's last are full."""
    return tl.minimum(size - tile * TILE, TILE).to(tl.int32)


@triton.jit
def place(places, tensor, FIELD: tl.constexpr):
    """One number of a tensor's `Place`."""
    return tl.load(places + tensor * PLACES + FIELD)


@triton.jit
def address(addresses, tensor, FIELD: tl.constexpr, ELEMENT: tl.constexpr):
    """One of a tensor's addresses, as a pointer."""
    return tl.load(addresses + tensor * ADDRESSES + FIELD).to(tl.pointer_type(ELEMENT))


@triton.jit
def option(settings, tensor, FIELD: tl.constexpr):
    """One of a tensor's options."""
    return tl.load(settings + tensor * OPTIONS + FIELD)
