"""The first pass of a step over all elements of a batch of tensors.

Kernels of Triton, of which a step starts one: `measure`, one program for each patch of a matrix, or
`find_finite`, one for each tile of a tensor; tables and workspace as in `learned_opt.backends.triton.passes`.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-incomplete-defs
# mypy: disable-error-code=assignment

import triton
import triton.language as tl

from learned_opt.backends.triton.elements import TINY, advanced_second, write_gain
from learned_opt.backends.triton.fields import (
    ACROSS,
    COLUMN_PARTS,
    COLUMNS,
    FIRST_PATCH,
    FIRST_TILE,
    GRAD,
    MATRIX,
    MEMORY,
    PARAM,
    PATCH_SUMS,
    ROW_PARTS,
    ROWS,
    SIGN,
    SIZE,
    STEP,
    TILE_SUMS,
    address,
    option,
    place,
    tile_length,
)


@triton.jit
def _measure_patch(
    grads, params, seconds, sign, gain, workspace, places, tensor, patch,
    DELAYED: tl.constexpr, HEIGHT: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    rows, columns = place(places, tensor, ROWS), place(places, tensor, COLUMNS)
    size = place(places, tensor, SIZE)
    across = place(places, tensor, ACROSS)
    down = patch // across
    column = (patch - down * across) * WIDE + tl.arange(0, WIDE)
    end = tl.minimum(rows, (down + 1) * HEIGHT)
    row_parts = workspace + place(places, tensor, ROW_PARTS) + (patch - down * across) * rows
    matrix = place(places, tensor, MATRIX)
    grad_square = tl.zeros([HIGH, WIDE], tl.float32)
    param_square = tl.zeros([HIGH, WIDE], tl.float32)
    second_sum = tl.zeros([HIGH, WIDE], tl.float32)
    for first in range(down * HEIGHT, end, HIGH):
        row = first + tl.arange(0, HIGH)
        at = row[:, None] * columns + column[None, :]
        inside = (row[:, None] < end) & (column[None, :] < columns) & (at < size)
        grad = tl.load(grads + at, mask=inside, other=0.0).to(tl.float32) * sign
        if not DELAYED:
            param = tl.load(params + at, mask=inside, other=0.0).to(tl.float32)
            param_square += param * param
        second = tl.load(seconds + at, mask=inside, other=0.0).to(tl.float32)
        second = tl.where(inside, tl.maximum(advanced_second(second, grad, gain), TINY), 0.0)
        grad_square += grad * grad
        second_sum += second
        if matrix != 0:
            tl.store(row_parts + row, tl.sum(second, axis=1), mask=row < end)
    by_column = tl.sum(second_sum, axis=0)
    if matrix != 0:
        column_parts = workspace + place(places, tensor, COLUMN_PARTS) + down * columns
        tl.store(column_parts + column, by_column, mask=column < columns)
    sums = workspace + place(places, tensor, PATCH_SUMS) + patch * 3
    tl.store(sums, tl.sum(tl.sum(grad_square, axis=1), axis=0))
    tl.store(sums + 1, tl.sum(by_column, axis=0))
    tl.store(sums + 2, tl.sum(tl.sum(param_square, axis=1), axis=0))


@triton.jit
def measure(
    addresses, settings, places, owners, workspace, second_rate,
    PARAM_TYPE: tl.constexpr, GRAD_TYPE: tl.constexpr, STATE_TYPE: tl.constexpr,
    AVERAGES: tl.constexpr, WAVES: tl.constexpr, DELAYED: tl.constexpr, NARROW_BELOW: tl.constexpr,
    HEIGHT: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    NARROW_HEIGHT: tl.constexpr, NARROW_HIGH: tl.constexpr, NARROW_WIDE: tl.constexpr,
):  # fmt: skip
    """Sums of squares of the gradient and of the next second moment, that also by rows and columns.

    And of squares of the parameter, where those of the step before do not do.
    """
    tensor = tl.load(owners + tl.program_id(0)).to(tl.int64)
    patch = tl.program_id(0) - place(places, tensor, FIRST_PATCH)
    params = address(addresses, tensor, PARAM, PARAM_TYPE)
    grads = address(addresses, tensor, GRAD, GRAD_TYPE)
    seconds = address(addresses, tensor, MEMORY, STATE_TYPE)
    seconds += (AVERAGES + 2 * WAVES) * place(places, tensor, SIZE)
    gain = write_gain(second_rate, tl.load(address(addresses, tensor, STEP, tl.float32)) + 1.0)
    sign = option(settings, tensor, SIGN)
    if place(places, tensor, COLUMNS) < NARROW_BELOW:
        _measure_patch(
            grads, params, seconds, sign, gain, workspace, places, tensor, patch,
            DELAYED, NARROW_HEIGHT, NARROW_HIGH, NARROW_WIDE,
        )  # fmt: skip
    else:
        _measure_patch(
            grads, params, seconds, sign, gain, workspace, places, tensor, patch,
            DELAYED, HEIGHT, HIGH, WIDE,
        )  # fmt: skip


@triton.jit
def find_finite(
    addresses, places, owners, workspace,
    GRAD_TYPE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Sums of squares of the gradient alone, which tell whether it is finite."""
    tensor = tl.load(owners + tl.program_id(0)).to(tl.int64)
    tile = tl.program_id(0) - place(places, tensor, FIRST_TILE)
    grads = address(addresses, tensor, GRAD, GRAD_TYPE) + tile * TILE
    lane = tl.arange(0, TILE)
    inside = lane < tile_length(place(places, tensor, SIZE), tile, TILE)
    grad = tl.load(grads + lane, mask=inside, other=0.0).to(tl.float32)
    tl.store(workspace + place(places, tensor, TILE_SUMS) + tile, tl.sum(grad * grad, axis=0))
