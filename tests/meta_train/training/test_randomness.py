import random

import numpy as np
import torch

from meta_train.training.randomness import seed_generators, seed_of, seeded_on_cpu


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seeds_of_positions_differ():
    positions = [
        (0, "image", 1, 23),
        (0, "image", 12, 3),
        (0, "image", 1, 2, 3),
        (1, "image", 1, 23),
        (0, "step", 1, 23),
    ]
    seeds = {seed_of(*position) for position in positions}
    assert len(seeds) == len(positions)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_position_determines_what_is_drawn():
    seed_generators(0, "step", 1)
    first = draw()
    draw()
    seed_generators(0, "step", 1)
    assert draw() == first


def test_a_block_leaves_the_generators_as_they_were():
    seed_generators(1)
    expected = [draw(), draw()]
    seed_generators(1)
    before = draw()
    with seeded_on_cpu(2):
        inside = draw()
    assert [before, draw()] == expected
    with seeded_on_cpu(2):
        assert draw() == inside
