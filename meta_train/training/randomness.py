"""Randomness by position: what is drawn depends on a seed and on where in the run it is drawn, nothing else.

So no generator's state belongs to a checkpoint, and a resumed run draws what it would have drawn.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch

NUMPY_SEEDS = 2**32


def seed_of(*position: int | str) -> int:
    """A seed of 63 bits for a position, such as ``seed_of(seed, "image", epoch, index)``."""
    text = "/".join(map(str, position))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_generators(*position: int | str) -> None:
    """Seed the generators of Python, NumPy and torch, on all devices."""
    seed = seed_of(*position)
    random.seed(seed)
    np.random.seed(seed % NUMPY_SEEDS)
    torch.manual_seed(seed)


@contextmanager
def seeded_on_cpu(*position: int | str) -> Iterator[None]:
    """Within the block the CPU's generators are seeded; after it they go on as if nothing had been drawn."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = seed_of(*position)
    random.seed(seed)
    np.random.seed(seed % NUMPY_SEEDS)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
