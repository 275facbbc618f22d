"""What a step finds of each tensor, from the sums that the passes leave: small kernels between them.

One program a tensor, in double precision; sums are added in one order, so that results repeat. Tables and
workspace as in `learned_opt.backends.triton.passes`.
"""

# ruff: noqa: RUF005 - the compiler knows no unpacking
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-incomplete-defs
# mypy: disable-error-code=assignment

import math

import triton
import triton.language as tl

from learned_opt.backends.triton.elements import SQRT_TINY, TINY, scalars, write_gain
from learned_opt.backends.triton.fields import (
    ACROSS,
    ADAM,
    COLUMN_PARTS,
    COLUMN_ROOTS,
    COLUMNS,
    COUNTED,
    DOWN,
    EXTENT,
    FACTOR,
    FIRST_FOLD,
    FIRST_LOG_GAIN,
    FLOOR,
    GAIN,
    INVERSE_SIZE,
    KEPT,
    LIVE,
    LOG_RMS,
    MATRIX,
    PATCH_SUMS,
    ROW_PARTS,
    ROW_ROOTS,
    ROWS,
    SIZE,
    SKIPPED,
    STEP,
    TILE_SUMS,
    TILES,
    TOTAL_STEPS,
    VECTOR,
    address,
    option,
    place,
)

PIECES, PARTS = tl.constexpr(256), tl.constexpr(32)
LARGEST = tl.constexpr((2.0 - 2.0**-23) * 2.0**127)
LOWEST_LOG_RMS, MAX_LOG_GAIN = tl.constexpr(-5.0), tl.constexpr(2.0)
USUAL_STEPS, EPSILON, PI = tl.constexpr(400.0), tl.constexpr(2.0**-23), tl.constexpr(math.pi)
NO_SCALE, RMS_SCALE = tl.constexpr(0), tl.constexpr(1)


@triton.jit
def _total(sums, count, WIDTH: tl.constexpr):
    """The sum over pieces of one number that each has put down, ``WIDTH`` apart."""
    total = tl.zeros([PIECES], tl.float64)
    for first in range(0, count, PIECES):
        piece = first + tl.arange(0, PIECES)
        total += tl.load(sums + piece * WIDTH, mask=piece < count, other=0.0).to(tl.float64)
    return tl.sum(total, axis=0)


@triton.jit
def _root(mean_square):
    return tl.sqrt(tl.maximum(mean_square, TINY))


@triton.jit
def _log_rms(mean_square):
    return tl.maximum(0.5 * tl.log(tl.maximum(mean_square, TINY)), LOWEST_LOG_RMS)


@triton.jit
def _sine(x):
    """Of x within a quarter of a turn, by its series: error below 1e-11."""
    series = 1.0 + 0.0 * x
    for k in tl.static_range(7):
        series = 1.0 - x * x * (1.0 / ((14 - 2 * k) * (15 - 2 * k))) * series
    return x * series


@triton.jit
def _progress(step, total, PROGRESS: tl.constexpr):
    """What is told of the progress, and half a cosine of it: `learned_opt.progress`. Else nothing, and 1."""
    told = ()
    gain = tl.full([], 1.0, tl.float64)
    if PROGRESS > 0:
        total = tl.maximum(total, 1.0).to(tl.float64)
        left = tl.maximum(1.0 - (step - 1.0).to(tl.float64) / total, 0.0)
        centred = 1.0 - 2.0 * left
        length = tl.minimum(tl.maximum(0.25 * tl.log(total / USUAL_STEPS), -1.0), 1.0)
        told = (centred, centred * centred, tl.sqrt(tl.maximum(left, EPSILON)), length)
        gain = _sine(0.5 * PI * left) * _sine(0.5 * PI * left)
    return told, gain


@triton.jit
def _scheduled(step, total, schedule, PROGRESS: tl.constexpr):
    """The gain that the progress brings."""
    told, gain = _progress(step, total, PROGRESS)
    log_gain = tl.zeros([], tl.float64)
    for i in tl.static_range(PROGRESS):
        log_gain += schedule[i] * told[i]
    return gain * tl.exp(tl.minimum(tl.maximum(log_gain, -MAX_LOG_GAIN), MAX_LOG_GAIN))


@triton.jit
def _shape(settings, tensor, SHAPES: tl.constexpr):
    """What is told of a tensor's shape, if anything: `learned_opt.tokens.features_of_shape`."""
    told = ()
    if SHAPES > 0:
        told = (option(settings, tensor, VECTOR), option(settings, tensor, EXTENT))
    return told


@triton.jit
def _put_bias(found, log_rms, told, shape, hidden, HIDDEN: tl.constexpr, BIAS: tl.constexpr):
    """Bias of the hidden layer, with what the RMS of the heads, the progress and the shape add to it."""
    HEADS: tl.constexpr = len(log_rms)
    PROGRESS: tl.constexpr = len(told)
    SHAPES: tl.constexpr = len(shape)
    tensor_weights, progress_weights, shape_weights, bias = hidden
    for unit in tl.static_range(HIDDEN):
        total = bias[unit] + tl.zeros([], tl.float64)
        for head in tl.static_range(HEADS):
            total += tensor_weights[unit * HEADS + head] * 0.5 * log_rms[head]
        for i in tl.static_range(PROGRESS):
            total += progress_weights[unit * PROGRESS + i] * told[i]
        for i in tl.static_range(SHAPES):
            total += shape_weights[unit * SHAPES + i] * shape[i]
        tl.store(found + BIAS + unit, total.to(tl.float32))


@triton.jit
def _put_coefficients(target, step, rates, turns, AVERAGES: tl.constexpr, WAVES: tl.constexpr):
    """What the memory is advanced with at this step."""
    for i in tl.static_range(AVERAGES + 1):
        tl.store(target + i, write_gain(rates[i], step))
    for i in tl.static_range(WAVES):
        gain = write_gain(rates[AVERAGES + 1 + i], step)
        tl.store(target + AVERAGES + 1 + i, gain)
        tl.store(target + AVERAGES + 1 + WAVES + i, (1.0 - gain) * turns[i])
        tl.store(target + AVERAGES + 1 + 2 * WAVES + i, (1.0 - gain) * turns[WAVES + i])


@triton.jit
def _fold(places, workspace, tensor, fold, FOLD: tl.constexpr):
    """Roots of the means of some rows or columns of a matrix."""
    rows, columns = place(places, tensor, ROWS), place(places, tensor, COLUMNS)
    parts, roots = place(places, tensor, ROW_PARTS), place(places, tensor, ROW_ROOTS)
    count, width, length = place(places, tensor, ACROSS), rows, columns
    folds_of_rows = tl.cdiv(rows, FOLD)
    if fold >= folds_of_rows:
        fold -= folds_of_rows
        parts, roots = place(places, tensor, COLUMN_PARTS), place(places, tensor, COLUMN_ROOTS)
        count, width, length = place(places, tensor, DOWN), columns, rows
    line = fold * FOLD + tl.arange(0, FOLD)
    total = tl.zeros([PARTS, FOLD], tl.float32)
    for first in range(0, count, PARTS):
        part = first + tl.arange(0, PARTS)
        inside = (part[:, None] < count) & (line[None, :] < width)
        total += tl.load(workspace + parts + part[:, None] * width + line[None, :], mask=inside, other=0.0)
    mean = tl.sum(total, axis=0) / length.to(tl.float32)
    tl.store(workspace + roots + line, tl.sqrt(mean), mask=line < width)


@triton.jit
def after_measure(
    addresses, settings, places, owners, workspace, rates, turns, hidden, schedule, epsilon,
    HEADS: tl.constexpr, AVERAGES: tl.constexpr, WAVES: tl.constexpr, HIDDEN: tl.constexpr,
    PROGRESS: tl.constexpr, SHAPES: tl.constexpr, FACTORED: tl.constexpr, SCALE: tl.constexpr,
    DELAYED: tl.constexpr, FOUND: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """Find what the later passes need of every tensor; further programs take its rows and columns."""
    tensor = tl.load(owners + tl.program_id(0)).to(tl.int64)
    fold = tl.program_id(0) - place(places, tensor, FIRST_FOLD)
    if fold >= 0:
        _fold(places, workspace, tensor, fold, FOLD)
    else:
        found, sums = workspace + tensor * FOUND, workspace + place(places, tensor, PATCH_SUMS)
        patches = place(places, tensor, ACROSS) * place(places, tensor, DOWN)
        size = tl.maximum(place(places, tensor, SIZE), 1).to(tl.float64)
        kept = address(addresses, tensor, KEPT, tl.float32)
        if FACTORED or not DELAYED:
            grad_square = _total(sums, patches, 3).to(tl.float32)
            mean_second = _total(sums + 1, patches, 3) / size
        else:
            tiles = workspace + place(places, tensor, TILE_SUMS)
            grad_square = _total(tiles, place(places, tensor, TILES), 1).to(tl.float32)
        if DELAYED:
            root_second = tl.maximum(tl.load(kept + HEADS + 1), SQRT_TINY).to(tl.float64)
            root_param = tl.maximum(tl.load(kept + HEADS + 2), SQRT_TINY).to(tl.float64)
        else:
            root_second, root_param = _root(mean_second), _root(_total(sums + 2, patches, 3) / size)
        step = tl.load(address(addresses, tensor, STEP, tl.float32)) + 1.0
        floor = (epsilon * root_second).to(tl.float32) + TINY
        tl.store(found + LIVE, (grad_square <= LARGEST).to(tl.float32))  # neither infinite nor not a number
        tl.store(found + COUNTED, step)
        tl.store(found + FLOOR, floor)
        tl.store(found + INVERSE_SIZE, (1.0 / root_param).to(tl.float32))
        if FACTORED:
            if place(places, tensor, MATRIX) != 0:
                tl.store(found + FACTOR, (1.0 / tl.sqrt(mean_second + TINY)).to(tl.float32))
            else:
                tl.store(found + FACTOR, _root(mean_second).to(tl.float32) + floor)
        _put_coefficients(found + LOG_RMS + HEADS, step, rates, turns, AVERAGES, WAVES)
        if DELAYED:
            log_rms = scalars(kept, HEADS)
            total = option(settings, tensor, TOTAL_STEPS)
            told, _ = _progress(step, total, PROGRESS)
            gain = _scheduled(step, total, schedule, PROGRESS)
            if SCALE != NO_SCALE:
                first = option(settings, tensor, FIRST_LOG_GAIN)
                gain *= tl.exp(tl.where(tl.load(kept + HEADS + 1) > 0, tl.load(kept + HEADS), first))
            tl.store(found + GAIN, gain.to(tl.float32))
            shape = _shape(settings, tensor, SHAPES)
            _put_bias(found, log_rms, told, shape, hidden, HIDDEN, LOG_RMS + HEADS + AVERAGES + 1 + 3 * WAVES)


@triton.jit
def after_ratios(
    settings, places, workspace, hidden,
    HEADS: tl.constexpr, AVERAGES: tl.constexpr, WAVES: tl.constexpr, HIDDEN: tl.constexpr,
    PROGRESS: tl.constexpr, SHAPES: tl.constexpr, SUMS: tl.constexpr, FOUND: tl.constexpr,
):  # fmt: skip
    """Find the log RMS of every head, and what the head is told of it."""
    tensor = tl.program_id(0).to(tl.int64)
    found, sums = workspace + tensor * FOUND, workspace + place(places, tensor, TILE_SUMS)
    if tl.load(found + LIVE) > 0:
        size = tl.maximum(place(places, tensor, SIZE), 1).to(tl.float64)
        log_rms = ()
        for head in tl.static_range(HEADS):
            mean_square = _total(sums + head, place(places, tensor, TILES), SUMS) / size
            if head == 0:
                tl.store(found + ADAM, mean_square.to(tl.float32))
            log_rms = log_rms + (_log_rms(mean_square),)
            tl.store(found + LOG_RMS + head, log_rms[head].to(tl.float32))
        told, _ = _progress(tl.load(found + COUNTED), option(settings, tensor, TOTAL_STEPS), PROGRESS)
        shape = _shape(settings, tensor, SHAPES)
        _put_bias(found, log_rms, told, shape, hidden, HIDDEN, LOG_RMS + HEADS + AVERAGES + 1 + 3 * WAVES)


@triton.jit
def _gain(square, adam, log_rms, shape, exponents, HEADS: tl.constexpr, SCALE: tl.constexpr):
    """What a direction asks for; 0 where the tensor does not move."""
    gain = 1.0 / _root(square)
    if SCALE == NO_SCALE:
        gain = tl.full([], 1.0, tl.float64)
    elif SCALE != RMS_SCALE:
        SHAPES: tl.constexpr = len(shape)
        powers, vector_powers, shape_gain = exponents
        log_gain = tl.zeros([], tl.float64)
        for head in tl.static_range(HEADS):
            power = powers[head]
            if SHAPES > 0:
                power += vector_powers[head] * shape[0]
            log_gain += power * log_rms[head]
        for i in tl.static_range(SHAPES):
            log_gain += shape_gain[i] * shape[i]
        log_gain = tl.minimum(tl.maximum(log_gain, -MAX_LOG_GAIN), MAX_LOG_GAIN)
        gain *= _root(adam) * tl.exp(log_gain)
    return tl.where(adam > 0, gain, 0.0)


@triton.jit
def after_directions(
    addresses, settings, places, workspace, exponents, schedule,
    HEADS: tl.constexpr, PROGRESS: tl.constexpr, SHAPES: tl.constexpr, SCALE: tl.constexpr,
    DELAYED: tl.constexpr, SUMS: tl.constexpr, FOUND: tl.constexpr,
):  # fmt: skip
    """Find the gain of every tensor, for this step or the next one, and count the step."""
    tensor = tl.program_id(0).to(tl.int64)
    found, sums = workspace + tensor * FOUND, workspace + place(places, tensor, TILE_SUMS)
    if tl.load(found + LIVE) > 0:
        size = tl.maximum(place(places, tensor, SIZE), 1).to(tl.float64)
        tiles = place(places, tensor, TILES)
        square = _total(sums + HEADS, tiles, SUMS) / size
        shape = _shape(settings, tensor, SHAPES)
        if DELAYED:
            kept = address(addresses, tensor, KEPT, tl.float32)
            adam = _total(sums, tiles, SUMS) / size
            log_rms = ()
            for head in tl.static_range(HEADS):
                log_rms = log_rms + (_log_rms(_total(sums + head, tiles, SUMS) / size),)
            gain = _gain(square, adam, log_rms, shape, exponents, HEADS, SCALE)
            if gain > 0:
                for head in tl.static_range(HEADS):
                    tl.store(kept + head, log_rms[head].to(tl.float32))
                tl.store(kept + HEADS, tl.minimum(tl.log(gain), MAX_LOG_GAIN).to(tl.float32))
                for i in tl.static_range(HEADS + 1, HEADS + 3):
                    tl.store(kept + i, _root(_total(sums + i, tiles, SUMS) / size).to(tl.float32))
        else:
            adam = tl.load(found + ADAM).to(tl.float64)
            log_rms = scalars(found + LOG_RMS, HEADS)
            gain = _gain(square, adam, log_rms, shape, exponents, HEADS, SCALE)
            if SCALE == NO_SCALE:
                gain = tl.full([], 1.0, tl.float64)
            total = option(settings, tensor, TOTAL_STEPS)
            gain *= _scheduled(tl.load(found + COUNTED), total, schedule, PROGRESS)
            tl.store(found + GAIN, gain.to(tl.float32))
        tl.store(address(addresses, tensor, STEP, tl.float32), tl.load(found + COUNTED))
    else:
        skipped = address(addresses, tensor, SKIPPED, tl.float32)
        tl.store(skipped, tl.load(skipped) + 1.0)
