from collections import Counter

import pytest
import torch

from meta_train.training.processes import World
from meta_train.training.sampling import EpochSampler, Key, OrderedSampler, epoch_order


def sampler(count=20, *, rank=0, size=1, **options):
    world = World(torch.device("cpu"), rank, size)
    return EpochSampler(
        count, world=world, **{"batch_size": 8, "accumulate": 1, "repeats": 1, "seed": 3, **options}
    )


def test_an_order_is_a_permutation_that_seed_and_epoch_determine():
    orders = {(seed, epoch): epoch_order(50, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert all(order[:, 0].sort().values.tolist() == list(range(50)) for order in orders.values())
    assert len({tuple(order[:, 0].tolist()) for order in orders.values()}) == 4
    assert torch.equal(orders[1, 0], epoch_order(50, seed=1, epoch=0))


@pytest.mark.parametrize("count", [48, 50])
def test_copies_stand_together_and_an_epoch_keeps_its_length(count):
    order = epoch_order(count, seed=0, epoch=0, repeats=3)
    assert len(order) == count
    assert order[:48, 1].tolist() == [0, 1, 2] * 16
    assert all(len(set(images)) == 1 for images in order[:48, 0].view(16, 3).tolist())
    assert max(Counter(order[:, 0].tolist()).values()) == 3


def test_an_epoch_goes_on_where_it_stopped():
    whole = sampler()
    whole.move_to(5, 0)
    rest = sampler()
    rest.move_to(5, 1)
    assert list(rest) == list(whole)[1:]
    assert (len(whole), len(rest), whole.steps) == (2, 1, 2)


@pytest.mark.parametrize(("size", "accumulate"), [(2, 1), (4, 1), (1, 4), (2, 2)])
def test_processes_and_passes_share_the_images_of_each_step(size, accumulate):
    alone = list(sampler())
    shared = [list(sampler(rank=rank, size=size, accumulate=accumulate)) for rank in range(size)]
    for step, keys in enumerate(alone):
        parts = [part for mine in shared for part in mine[step * accumulate : (step + 1) * accumulate]]
        assert sorted(key for part in parts for key in part) == sorted(keys)
        assert {len(part) for part in parts} == {8 // (size * accumulate)}


def test_a_step_is_never_larger_than_the_data():
    assert [len(keys) for keys in sampler(5)] == [5]
    assert [len(keys) for keys in sampler(5, size=2)] == [2]


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match=r"batch_size is 8; expected a multiple of 6, which is 3 processes"):
        sampler(size=3, accumulate=2)
    with pytest.raises(ValueError, match="there are 3 images; expected at least 4"):
        sampler(3, size=4)


def test_validation_sees_each_image_once():
    world = [World(torch.device("cpu"), rank, 3) for rank in range(3)]
    shares = [list(OrderedSampler(10, batch_size=2, world=place)) for place in world]
    assert sorted(key for share in shares for keys in share for key in keys) == [
        Key(0, i, 0) for i in range(10)
    ]
    assert [len(OrderedSampler(10, batch_size=2, world=place)) for place in world] == [len(s) for s in shares]
