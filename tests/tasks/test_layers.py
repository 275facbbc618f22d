"""Batch normalisation and dropout in tasks: pure, per member, and as PyTorch defines them."""

import pytest
import torch
from torch import nn
from torch.func import grad_and_value, vmap

from tasks import ClassificationTask, load_dataset
from tasks.layers import SeededDropout

ABOUT = {"name": "own", "description": "own", "default_steps": 10, "learning_rates": (1e-3, 1e-1)}
MEMBERS = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_normalised():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10)
    )


def dropping():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 200), nn.Dropout(0.25), nn.Dropout(0.25), nn.Linear(200, 10)
    )


def task(factory, **options):
    return ClassificationTask(factory, load_dataset("digits"), 16, **ABOUT, **options)


def test_batch_norm_trains_on_the_statistics_of_its_batch():
    own = task(batch_normalised)
    params, (inputs, labels) = own.init(generator()), own.batch(generator(1))
    module = own.factory()
    module[4].p = 0.0
    module.load_state_dict(params, strict=False)
    expected = nn.functional.cross_entropy(module.train()(inputs), labels)
    torch.testing.assert_close(own.loss(params, (inputs, labels)), expected)
    other = (torch.cat([inputs[:1], 3 * inputs[1:] + 1]), labels)
    assert not torch.allclose(own.forward(params, other[0])[0], own.forward(params, inputs)[0])


def test_batch_norm_predicts_each_example_by_itself():
    own = task(batch_normalised)
    params = own.init(generator())
    whole = own.evaluate(params)
    for chunk in (1, 7, 100):
        assert own.evaluate(params, chunk=chunk) == pytest.approx(whole, rel=1e-5)
    assert own.evaluate(params) == whole
    with_other_weights = {name: value + 0.1 for name, value in params.items()}
    assert own.evaluate(with_other_weights)["loss"] != whole["loss"]


@pytest.mark.parametrize("options", [{}, {"dropout": True}])
def test_a_population_equals_a_loop(options):
    own = task(batch_normalised, **options)
    rng = generator()
    params = [own.init(rng) for _ in range(MEMBERS)]
    batches = [own.batch(rng) for _ in range(MEMBERS)]
    stacked = {name: torch.stack([one[name] for one in params]) for name in params[0]}
    stacked_batch = tuple(torch.stack(parts) for parts in zip(*batches, strict=True))
    gradients, losses = vmap(grad_and_value(own.loss))(stacked, stacked_batch)
    for member in range(MEMBERS):
        gradient, loss = grad_and_value(own.loss)(params[member], batches[member])
        torch.testing.assert_close(losses[member], loss)
        for name, value in gradient.items():
            torch.testing.assert_close(gradients[name][member], value, rtol=1e-4, atol=1e-5)


def test_dropout_is_off_unless_asked_for():
    own = task(dropping)
    params, batch = own.init(generator()), own.batch(generator())
    assert len(batch) == 2
    module = own.factory().eval()
    module.load_state_dict(params)
    expected = nn.functional.cross_entropy(module(batch[0]), batch[1])
    torch.testing.assert_close(own.loss(params, batch), expected)


def test_dropout_follows_from_the_batch_alone():
    own, off = task(dropping, dropout=True), task(dropping)
    params, batch = own.init(generator()), own.batch(generator())
    *plain, seed = batch
    losses = [own.loss(params, (*plain, seed + offset)) for offset in range(20)]
    assert torch.equal(own.loss(params, batch), losses[0])
    assert len({loss.item() for loss in losses}) == 20
    assert off.loss(params, tuple(plain)) not in losses
    assert own.evaluate(params) == off.evaluate(params)
    together, apart = generator(5), generator(5)
    stacked = own.batches(together, 3)
    for one, parts in zip(zip(*stacked, strict=True), (own.batch(apart) for _ in range(3)), strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, parts, strict=True))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_masks_keep_the_right_share_and_are_independent(rate):
    layer = SeededDropout(rate)
    ones = torch.ones(500, 400)
    masks = []
    for seed in (0, 1, 2**31):
        layer.seed = torch.tensor(seed)
        outputs = layer(ones)
        torch.testing.assert_close(outputs.unique(), torch.tensor([0.0, 1 / (1 - rate)]))
        masks.append((outputs > 0).double())
        assert masks[-1].mean().item() == pytest.approx(1 - rate, abs=5e-3)
        centred = masks[-1] - (1 - rate)
        for shift in ((0, 1), (1, 0), (7, 3)):
            lagged = centred.roll(shift, (0, 1))
            assert abs((centred * lagged).mean()) < 0.01 * rate
    assert abs(torch.corrcoef(torch.stack([mask.flatten() for mask in masks])).triu(1)).max() < 0.01


def test_two_layers_of_one_module_drop_differently():
    own = task(dropping, dropout=True)
    layers = {name: layer for name, layer in own._dropping.named_modules() if name in ("2", "3")}
    seen = {}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda module, args, output, name=name: seen.update({name: output != 0}))
    params, batch = own.init(generator()), own.batch(generator())
    own.loss(params, batch)
    share = (seen["3"].sum() / seen["2"].sum()).item()
    assert share == pytest.approx(0.75, abs=0.03)


def test_dropping_everything_gives_zeros():
    assert torch.equal(SeededDropout(1.0)(torch.ones(3)), torch.zeros(3))


def alpha():
    return nn.Sequential(nn.Flatten(), nn.AlphaDropout(0.1), nn.Linear(64, 10))


def never():
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("factory", "message"),
    [(alpha, "got AlphaDropout '1'"), (never, "no layer of type Dropout with a positive rate")],
)
def test_dropout_that_cannot_be_had_is_refused(factory, message):
    with pytest.raises(ValueError, match=message):
        task(factory, dropout=True)
