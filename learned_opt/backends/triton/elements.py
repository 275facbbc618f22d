"""The update rule at a block of parameters: memory, features and head, as `learned_opt.rule` defines them.

Functions of Triton kernels. Rows of memory and features are tuples of blocks; weights and coefficients are
tuples of scalars.
"""

# ruff: noqa: RUF005, SIM300 - the compiler knows no unpacking, and constants in capitals
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-incomplete-defs
# mypy: disable-error-code=assignment

import triton
import triton.language as tl

from learned_opt import rounding

TINY = tl.constexpr(2.0**-126)
SQRT_TINY = tl.constexpr(2.0**-63)
MAX_RATIO = tl.constexpr(10.0)
LARGEST_BFLOAT16 = tl.constexpr((2.0 - 2.0**-7) * 2.0**127)
SERIES_BELOW = tl.constexpr(0.5)


@triton.jit
def softsign(x):
    """``x / (1 + |x|)``."""
    return x / (1.0 + tl.abs(x))


@triton.jit
def clamped(x, BOUND: tl.constexpr):
    """Within ``[-BOUND, BOUND]``."""
    return tl.minimum(tl.maximum(x, -BOUND), BOUND)


@triton.jit
def decayed(x):
    """``1 - exp(-x)`` for x of at least 0, exact to rounding where x is small too."""
    series = 1.0 - x * (1.0 / 9.0)
    for k in tl.static_range(7):
        series = 1.0 - x * (1.0 / (8.0 - k)) * series
    return tl.where(x < SERIES_BELOW, x * series, 1.0 - tl.exp(-x))


@triton.jit
def write_gain(rate, step):
    """As `kernattn.spectral.write_gain`."""
    return decayed(rate) / decayed(rate * step)


@triton.jit
def scalars(source, COUNT: tl.constexpr):
    """``COUNT`` numbers that stand one after the other."""
    found = ()
    for i in tl.static_range(COUNT):
        found = found + (tl.load(source + i),)
    return found


@triton.jit
def zeros(COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """``COUNT`` sums, one a lane, of nothing yet."""
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.zeros([BLOCK], tl.float32),)
    return sums


@triton.jit
def squares_of(values, COUNT: tl.constexpr):
    """Squares of the first ``COUNT``."""
    squares = ()
    for i in tl.static_range(COUNT):
        squares = squares + (values[i] * values[i],)
    return squares


@triton.jit
def added(sums, terms):
    """Each sum with a term more."""
    COUNT: tl.constexpr = len(sums)
    more = ()
    for i in tl.static_range(COUNT):
        more = more + (sums[i] + terms[i],)
    return more


@triton.jit
def put_sums(target, sums):
    """Put sums down, one after the other, over all lanes."""
    COUNT: tl.constexpr = len(sums)
    for i in tl.static_range(COUNT):
        tl.store(target + i, tl.sum(sums[i], axis=0))


@triton.jit
def advanced_second(second, grad, gain):
    """The second moment with a gradient written into it."""
    return second + gain * (grad * grad - second)


@triton.jit
def load_rows(memory, size, at, inside, ROWS: tl.constexpr):
    """The memory of a block, zero where it is not inside."""
    rows = ()
    for row in tl.static_range(ROWS):
        rows = rows + (tl.load(memory + row * size + at, mask=inside, other=0.0).to(tl.float32),)
    return rows


@triton.jit
def advanced(rows, grad, by, AVERAGES: tl.constexpr, WAVES: tl.constexpr):
    """The memory with a gradient written into it.

    ``by`` holds the gains of the averages and of the second moment, then of the waves; then what cosine and
    sine parts keep.
    """
    WAVE: tl.constexpr = AVERAGES + 1
    after = ()
    for i in tl.static_range(AVERAGES):
        after = after + (rows[i] + by[i] * (grad - rows[i]),)
    for i in tl.static_range(WAVES):
        cosine, sine = by[WAVE + WAVES + i], by[WAVE + 2 * WAVES + i]
        real = cosine * rows[AVERAGES + i] - sine * rows[AVERAGES + WAVES + i]
        after = after + (real + by[WAVE + i] * grad,)
    for i in tl.static_range(WAVES):
        cosine, sine = by[WAVE + WAVES + i], by[WAVE + 2 * WAVES + i]
        after = after + (sine * rows[AVERAGES + i] + cosine * rows[AVERAGES + WAVES + i],)
    return after + (advanced_second(rows[AVERAGES + 2 * WAVES], grad, by[AVERAGES]),)


@triton.jit
def floored_root(second, floor):
    """The root second moment that averages are divided by."""
    return tl.sqrt(tl.maximum(second, TINY)) + floor


@triton.jit
def read(rows, mixture, HEADS: tl.constexpr, MIXING: tl.constexpr, MIXED: tl.constexpr, SECOND: tl.constexpr):
    """Every head's average; the mixed rows are the last before the second moment's."""
    first = ()
    for head in tl.static_range(HEADS):
        average = rows[head]
        if head < MIXING:
            for i in tl.static_range(MIXED):
                average += mixture[head * MIXED + i] * rows[SECOND - MIXED + i]
        first = first + (average,)
    return first


@triton.jit
def ratios(first, inverse_root, HEADS: tl.constexpr):
    """Every head's average over the root second moment."""
    found = ()
    for head in tl.static_range(HEADS):
        found = found + (clamped(first[head] * inverse_root, MAX_RATIO),)
    return found


@triton.jit
def even_features(odd, param, inverse_size, HEADS: tl.constexpr):
    """Those that tell one parameter from another within its tensor, without its row and column."""
    even = ()
    for head in tl.static_range(HEADS):
        even = even + (softsign(tl.abs(odd[head])),)
    for head in tl.static_range(HEADS):
        even = even + (softsign(odd[head] * odd[(head + HEADS) % (HEADS + 1)]),)
    return even + (softsign(tl.abs(param) * inverse_size),)


@triton.jit
def weigh(odd, even, bias, weights, HIDDEN: tl.constexpr, DIRECTIONS: tl.constexpr, RELU: tl.constexpr):
    """The head: ``odd[0]`` and a sum of odd features, each with a weight that the even ones give.

    Args:
        odd: Without the learned ones.
        even: Without those of the whole tensor, which are in the bias.
        bias: Of the hidden layer.
        weights: Into the hidden layer, ``[HIDDEN, even]``; of the learned odd functions; out of the hidden
            layer, ``[outputs, HIDDEN]``; bias of the outputs.
        HIDDEN: Width of the hidden layer.
        DIRECTIONS: Learned odd functions.
        RELU: Whether that is the hidden layer's activation; else it is `softsign`.
    """
    ODD: tl.constexpr = len(odd)
    EVEN: tl.constexpr = len(even)
    inputs, learned, outputs, output_bias = weights
    for i in tl.static_range(DIRECTIONS):
        total = learned[i * ODD] * odd[0]
        for j in tl.static_range(1, ODD):
            total += learned[i * ODD + j] * odd[j]
        odd = odd + (2.0 * softsign(total),)
    direction = odd[0]
    for i in tl.static_range(ODD + DIRECTIONS):
        direction += output_bias[i] * odd[i]
    for unit in tl.static_range(HIDDEN):
        hidden = bias[unit] + inputs[unit * EVEN] * even[0]
        for i in tl.static_range(1, EVEN):
            hidden += inputs[unit * EVEN + i] * even[i]
        total = outputs[unit] * odd[0]
        for i in tl.static_range(1, ODD + DIRECTIONS):
            total += outputs[i * HIDDEN + unit] * odd[i]
        hidden = tl.maximum(hidden, 0.0) if RELU else softsign(hidden)
        direction += hidden * total
    return direction


@triton.jit
def nearest(exact, TYPE: tl.constexpr):
    """Rounded to the nearest of a type, in float32; Triton's interpreter would cut bits off for bfloat16."""
    near = exact
    if TYPE == tl.bfloat16:
        bits = exact.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        near = tl.where(exact == exact, bits.to(tl.float32, bitcast=True), exact)
    elif TYPE == tl.float16:
        near = exact.to(tl.float16).to(tl.float32)
    return near


@triton.jit
def mixed(value):
    """The 32-bit mixing function of `learned_opt.rounding`."""
    value ^= value >> 16
    value *= 0x7FEB352D
    value ^= value >> 15
    value *= 0x846CA68B
    return value ^ (value >> 16)


@triton.jit
def rounded(exact, word, SHIFT: tl.constexpr):
    """Round to bfloat16 as `learned_opt.rounding` does, by 16 bits of a word from ``SHIFT`` on, cyclic."""
    noise = word
    if SHIFT > 0:
        noise = (word >> SHIFT) | (word << (32 - SHIFT))
    bits = clamped(exact, LARGEST_BFLOAT16).to(tl.uint32, bitcast=True) + (noise & 0xFFFF)
    return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def store_rows(
    memory, size, at, inside, rows, seed,
    TYPE: tl.constexpr, GROUP: tl.constexpr = rounding.GROUP, APART: tl.constexpr = rounding.APART,
):  # fmt: skip
    """Put the memory of a block back; what rounds it to bfloat16 are bits of its places and of ``seed``."""
    ROWS: tl.constexpr = len(rows)
    GROUPS: tl.constexpr = (ROWS + GROUP - 1) // GROUP
    place = at.to(tl.uint32) * GROUPS
    word = place
    for row in tl.static_range(ROWS):
        value = rows[row]
        if TYPE == tl.bfloat16:
            if row % GROUP == 0:
                word = mixed((place + row // GROUP) ^ seed)
            value = rounded(value, word, row % GROUP * APART)
        tl.store(memory + row * size + at, value, mask=inside)
