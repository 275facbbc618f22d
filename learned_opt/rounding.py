"""Stochastic rounding to bfloat16 that repeats: its randomness is a hash of where and when."""

from functools import lru_cache

import torch
from torch import Tensor

from learned_opt.layout import Layout

GROUP, APART = 8, 4
"""Rows of memory that share a hash of 32 bits, and how many bits of it one takes its 16 after the other."""
_LOW_BITS = 0xFFFF


def round_to_bfloat16(exact: Tensor, step: Tensor, layout: Layout) -> Tensor:
    """Round up or down at random, so that the mean of the rounded is the exact value.

    Rounding to nearest would freeze an average with a factor of .999 a step: what one gradient adds to it is
    below half the spacing of bfloat16. The random bits depend on the step of the tensor and on the place
    within it alone, so that a run repeats, and resumes, to the same bits. The first four of the 16 that a row
    takes, which decide most, are no other row's first four.

    Args:
        exact: ``[S, N]``, float32.
        step: Steps of each tensor, ``[n]``.
        layout: Which elements belong to which tensor.

    Returns:
        ``[S, N]``, bfloat16, each one of the two neighbours of the exact value; a value beyond the largest
        becomes the largest.
    """
    rows = torch.arange(len(exact), device=exact.device)
    groups = torch.arange(-(-len(exact) // GROUP), dtype=torch.int32, device=exact.device)[:, None]
    seed = _hash(layout.spread(step.to(torch.int32)))
    words = _hash(_places(layout, exact.device) * len(groups) + groups ^ seed).to(torch.int64) & 0xFFFFFFFF
    twice = (words | words << 32).index_select(0, rows // GROUP)
    noise = (twice >> (rows % GROUP * APART)[:, None] & _LOW_BITS).to(torch.int32)
    rounded = ((exact.contiguous().view(torch.int32) + noise) & ~_LOW_BITS).view(torch.float32)
    largest = torch.finfo(torch.bfloat16).max
    return rounded.clamp(-largest, largest).to(torch.bfloat16)


def _places(layout: Layout, device: torch.device) -> Tensor:
    """Place of every element within its whole tensor, ``[N]``."""
    parts = zip(layout.shapes, layout.whole_shapes, layout.offsets, strict=True)
    return torch.cat([_places_of_part(*part, device) for part in parts])


@lru_cache(maxsize=256)
def _places_of_part(
    shape: tuple[int, ...], whole: tuple[int, ...], offset: tuple[int, ...], device: torch.device
) -> Tensor:
    places = torch.zeros((), dtype=torch.int32)
    for size, full, start in zip(shape, whole, offset, strict=True):
        places = places[..., None] * full + start + torch.arange(size, dtype=torch.int32)
    return places.reshape(-1).to(device)


def _hash(value: Tensor) -> Tensor:
    """A 32-bit mixing function, by multiplications and shifts of odd constants.

    References:
        Wellons, 2018, "lowbias32", https://nullprogram.com/blog/2018/07/31/
    """
    value = value ^ _shifted(value, 16)
    value = value * 0x7FEB352D
    value = value ^ _shifted(value, 15)
    value = value * (0x846CA68B - 2**32)
    return value ^ _shifted(value, 16)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, where int32 would fill with the sign."""
    return (value >> bits) & ((1 << (32 - bits)) - 1)
