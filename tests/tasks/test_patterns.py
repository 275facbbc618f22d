import pickle

import pytest
import torch

from tasks.patterns import PatternData


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_draw_of_many_batches_is_many_draws(split):
    data = PatternData(0, image=9)
    images, labels = data.draw(generator(1), (3, 5), split)
    assert images.shape == (3, 5, 1, 9, 9)
    rng = generator(1)
    for index in range(3):
        some_images, some_labels = data.draw(rng, (5,), split)
        assert torch.equal(images[index], some_images)
        assert torch.equal(labels[index], some_labels)


def test_a_seed_is_a_source_and_pickling_keeps_it():
    data = PatternData(3, image=8)
    for copy in (PatternData(3, image=8), pickle.loads(pickle.dumps(data))):
        assert torch.equal(data.draw(generator(), (4,), "train")[0], copy.draw(generator(), (4,), "train")[0])
    other = PatternData(4, image=8).draw(generator(), (4,), "train")[0]
    assert not torch.equal(data.draw(generator(), (4,), "train")[0], other)


def test_images_are_of_order_one_and_kinds_as_likely():
    images, labels = PatternData(0, image=16, classes=5).draw(generator(), (5000,), "train")
    assert abs(images.mean()) < 0.05
    assert images.std() == pytest.approx((1 + 1 / 12 + 0.25) ** 0.5, rel=0.05)
    counts = torch.bincount(labels, minlength=5).double()
    assert ((counts - 1000) ** 2 / 1000).sum() < 18.5, "the 99.9 % quantile of 4 degrees of freedom"


def test_images_are_shifted_patterns_of_their_kind():
    """The nearest pattern, over all shifts and contrasts, tells the kind of nearly every image."""
    data = PatternData(0, image=16)
    images, labels = data.draw(generator(), (200,), "train")
    shifts = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    patterns = torch.stack([data._patterns.roll(shift, dims=(1, 2)) for shift in shifts], dim=1)
    likeness = torch.einsum("nij,psij->nps", images[:, 0], patterns).amax(2)
    assert (likeness.argmax(1) // 2 == labels).float().mean() > 0.97


def test_validation_is_a_fixed_set():
    data = PatternData(0, image=8)
    chunks = list(data.chunks("validation", 1000))
    assert [len(labels) for _, labels in chunks] == [1000, 1000, 48]
    drawn, _ = data.draw(generator(), (20,), "validation")
    known = torch.cat([images for images, _ in chunks]).flatten(1)
    assert (drawn.flatten(1)[:, None] == known).all(-1).any(-1).all()
    with pytest.raises(ValueError, match="training stream of patterns has no end"):
        next(data.chunks("train", 10))


def test_bad_sizes():
    with pytest.raises(ValueError, match="image must be at least 4 and classes at least 2, got 3 and 10"):
        PatternData(0, image=3)
