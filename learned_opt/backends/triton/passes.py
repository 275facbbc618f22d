"""The later passes of a step over all elements of a batch of tensors: one program for each tile of a tensor.

Kernels of Triton. Tables are of `Place`, `Address` and `Option`; what is found of a tensor stands first in
the workspace, ``FOUND`` floats for each.
"""

# ruff: noqa: RUF005 - the compiler knows no unpacking
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-incomplete-defs
# mypy: disable-error-code=assignment

import triton
import triton.language as tl

from learned_opt.backends.triton.elements import (
    MAX_RATIO,
    SQRT_TINY,
    TINY,
    added,
    advanced,
    clamped,
    even_features,
    floored_root,
    load_rows,
    mixed,
    nearest,
    put_sums,
    ratios,
    read,
    scalars,
    softsign,
    squares_of,
    store_rows,
    weigh,
    zeros,
)
from learned_opt.backends.triton.fields import (
    COLUMN_ROOTS,
    COLUMNS,
    COUNTED,
    DIRECTIONS,
    FACTOR,
    FIRST_TILE,
    FLOOR,
    GAIN,
    GRAD,
    INVERSE_SIZE,
    LIVE,
    LOG_RMS,
    LR,
    MATRIX,
    MEMORY,
    OUTPUT,
    PARAM,
    ROW_ROOTS,
    SIGN,
    SIZE,
    TILE_SUMS,
    WEIGHT_DECAY,
    address,
    option,
    place,
    tile_length,
)


@triton.jit
def ratio_squares(
    addresses, settings, places, owners, workspace, mixture,
    GRAD_TYPE: tl.constexpr, STATE_TYPE: tl.constexpr, HEADS: tl.constexpr, AVERAGES: tl.constexpr,
    WAVES: tl.constexpr, MIXING: tl.constexpr, MIXED: tl.constexpr,
    SUMS: tl.constexpr, FOUND: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of squares of every head's ratio."""
    MEMORY_ROWS: tl.constexpr = AVERAGES + 2 * WAVES + 1
    tensor = tl.load(owners + tl.program_id(0)).to(tl.int64)
    tile = tl.program_id(0) - place(places, tensor, FIRST_TILE)
    size = place(places, tensor, SIZE)
    end = tile_length(size, tile, TILE)
    found = workspace + tensor * FOUND
    if tl.load(found + LIVE) > 0:
        grads = address(addresses, tensor, GRAD, GRAD_TYPE)
        memory = address(addresses, tensor, MEMORY, STATE_TYPE)
        sign, floor = option(settings, tensor, SIGN), tl.load(found + FLOOR)
        by = scalars(found + LOG_RMS + HEADS, AVERAGES + 1 + 3 * WAVES)
        sums = zeros(HEADS, BLOCK)
        for start in range(0, end, BLOCK):
            at = tile * TILE + start + tl.arange(0, BLOCK)
            inside = at < size
            grad = tl.load(grads + at, mask=inside, other=0.0).to(tl.float32) * sign
            rows = advanced(load_rows(memory, size, at, inside, MEMORY_ROWS), grad, by, AVERAGES, WAVES)
            first = read(rows, mixture, HEADS, MIXING, MIXED, MEMORY_ROWS - 1)
            found_ratios = ratios(first, 1.0 / floored_root(rows[MEMORY_ROWS - 1], floor), HEADS)
            sums = added(sums, squares_of(found_ratios, HEADS))
        put_sums(workspace + place(places, tensor, TILE_SUMS) + tile * SUMS, sums)


@triton.jit
def _factored_roots(workspace, places, tensor, begin, lane, inside, TILE: tl.constexpr):
    """Root of the row mean times that of the column mean, for places ``begin + lane`` of a matrix.

    The row and column of ``begin`` are found by one division of long integers; those of the others, which are
    less than two tiles away, without any.
    """
    columns = place(places, tensor, COLUMNS)
    row = begin // columns
    column = begin - row * columns
    if columns < TILE:  # so that these are small, and the quotient of floats is exact
        short = columns.to(tl.int32)
        rows_on = ((column.to(tl.int32) + lane).to(tl.float32) + 0.5) * (1.0 / short.to(tl.float32))
        further = rows_on.to(tl.int32)
    else:
        left = tl.minimum(columns - column, 2 * TILE).to(tl.int32)
        further = (lane >= left).to(tl.int32)
    row_roots = workspace + place(places, tensor, ROW_ROOTS) + row
    column_roots = workspace + place(places, tensor, COLUMN_ROOTS) + column
    across = tl.load(row_roots + further, mask=inside, other=1.0)
    return across * tl.load(column_roots + (lane - further * columns), mask=inside, other=1.0)


@triton.jit
def _moved(param, direction, lr, keep, TYPE: tl.constexpr):
    """A parameter after weight decay and a direction, rounded after each as two operations of torch would."""
    return nearest(nearest(param * keep, TYPE) - lr * direction, TYPE)


@triton.jit
def directions(
    addresses, settings, places, owners, workspace, mixture, weights,
    PARAM_TYPE: tl.constexpr, GRAD_TYPE: tl.constexpr, STATE_TYPE: tl.constexpr,
    HEADS: tl.constexpr, AVERAGES: tl.constexpr, WAVES: tl.constexpr,
    MIXING: tl.constexpr, MIXED: tl.constexpr,
    HIDDEN: tl.constexpr, LEARNED: tl.constexpr, FACTORED: tl.constexpr, RELU: tl.constexpr,
    DELAYED: tl.constexpr, SUMS: tl.constexpr, FOUND: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Advance the memory and find directions.

    Where statistics are those of the step before, directions are taken at once, and sums that the next step
    goes by are put down; else directions are put down, and their sum of squares.
    """
    MEMORY_ROWS: tl.constexpr = AVERAGES + 2 * WAVES + 1
    COEFFICIENTS: tl.constexpr = AVERAGES + 1 + 3 * WAVES
    FIRST_SUM: tl.constexpr = 0 if DELAYED else HEADS
    tensor = tl.load(owners + tl.program_id(0)).to(tl.int64)
    tile = tl.program_id(0) - place(places, tensor, FIRST_TILE)
    size = place(places, tensor, SIZE)
    end = tile_length(size, tile, TILE)
    found = workspace + tensor * FOUND
    params = address(addresses, tensor, PARAM, PARAM_TYPE)
    output = address(addresses, tensor, OUTPUT, tl.float32)
    given = output.to(tl.int64) != 0
    if tl.load(found + LIVE) > 0:
        grads = address(addresses, tensor, GRAD, GRAD_TYPE)
        memory = address(addresses, tensor, MEMORY, STATE_TYPE)
        lr = option(settings, tensor, LR)
        keep = 1.0 - lr * option(settings, tensor, WEIGHT_DECAY)
        sign, gain = option(settings, tensor, SIGN), tl.load(found + GAIN)
        floor, inverse_size = tl.load(found + FLOOR), tl.load(found + INVERSE_SIZE)
        factor, matrix = tl.load(found + FACTOR), place(places, tensor, MATRIX)
        by = scalars(found + LOG_RMS + HEADS, COEFFICIENTS)
        seed = mixed(tl.load(found + COUNTED).to(tl.uint32))
        waiting = workspace + place(places, tensor, DIRECTIONS)
        sums = zeros(SUMS - FIRST_SUM, BLOCK)
        for start in range(0, end, BLOCK):
            lane = start + tl.arange(0, BLOCK)
            at = tile * TILE + lane
            inside = at < size
            grad = tl.load(grads + at, mask=inside, other=0.0).to(tl.float32) * sign
            param = tl.load(params + at, mask=inside, other=0.0).to(tl.float32)
            rows = advanced(load_rows(memory, size, at, inside, MEMORY_ROWS), grad, by, AVERAGES, WAVES)
            store_rows(memory, size, at, inside, rows, seed, STATE_TYPE)
            root = tl.zeros([BLOCK], tl.float32) + factor
            if FACTORED and matrix != 0:
                product = _factored_roots(workspace, places, tensor, tile * TILE, lane, inside, TILE)
                root = tl.maximum(product * factor, SQRT_TINY) + floor
            own_root = floored_root(rows[MEMORY_ROWS - 1], floor)
            inverse_root = 1.0 / own_root
            first = read(rows, mixture, HEADS, MIXING, MIXED, MEMORY_ROWS - 1)
            odd = ratios(first, inverse_root, HEADS) + (clamped(grad * inverse_root, MAX_RATIO),)
            even = even_features(odd, param, inverse_size, HEADS)
            if FACTORED:
                inverse_factored = 1.0 / root
                odd = odd + (clamped(first[0] * inverse_factored, MAX_RATIO),)
                even = even + (softsign(tl.log(own_root * inverse_factored)),)
            bias = scalars(found + LOG_RMS + HEADS + COEFFICIENTS, HIDDEN)
            direction = weigh(odd, even, bias, weights, HIDDEN, LEARNED, RELU)
            terms = (direction * direction,)
            if DELAYED:
                second = tl.where(inside, tl.maximum(rows[MEMORY_ROWS - 1], TINY), 0.0)
                terms = squares_of(odd, HEADS) + terms + (second, param * param)
            sums = added(sums, terms)
            if not DELAYED:
                tl.store(waiting + at, direction, mask=inside)
            elif given:
                tl.store(output + at, gain * direction, mask=inside)
            else:
                tl.store(params + at, _moved(param, gain * direction, lr, keep, PARAM_TYPE), mask=inside)
        put_sums(workspace + place(places, tensor, TILE_SUMS) + tile * SUMS + FIRST_SUM, sums)
    elif given:
        for start in range(0, end, BLOCK):
            at = tile * TILE + start + tl.arange(0, BLOCK)
            tl.store(output + at, tl.zeros([BLOCK], tl.float32), mask=at < size)


@triton.jit
def apply(
    addresses, settings, places, owners, workspace,
    PARAM_TYPE: tl.constexpr, FOUND: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Give directions that were put down their tensor's gain, and move the parameters."""
    tensor = tl.load(owners + tl.program_id(0)).to(tl.int64)
    tile = tl.program_id(0) - place(places, tensor, FIRST_TILE)
    size = place(places, tensor, SIZE)
    end = tile_length(size, tile, TILE)
    found = workspace + tensor * FOUND
    output = address(addresses, tensor, OUTPUT, tl.float32)
    given = output.to(tl.int64) != 0
    if tl.load(found + LIVE) > 0:
        gain = tl.load(found + GAIN)
        waiting = workspace + place(places, tensor, DIRECTIONS)
        params = address(addresses, tensor, PARAM, PARAM_TYPE)
        lr = option(settings, tensor, LR)
        keep = 1.0 - lr * option(settings, tensor, WEIGHT_DECAY)
        for start in range(0, end, BLOCK):
            at = tile * TILE + start + tl.arange(0, BLOCK)
            inside = at < size
            direction = gain * tl.load(waiting + at, mask=inside, other=0.0)
            if given:
                tl.store(output + at, direction, mask=inside)
            else:
                param = tl.load(params + at, mask=inside, other=0.0).to(tl.float32)
                tl.store(params + at, _moved(param, direction, lr, keep, PARAM_TYPE), mask=inside)
