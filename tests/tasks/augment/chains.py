"""What the tests of augmentations share."""

import torch
from torch.func import grad_and_value, vmap

from tasks.augment import (
    BatchSize,
    GradientNoise,
    LabelNoise,
    LossScale,
    Precision,
    reparametrise,
)

WRAPPERS = {
    "overall": lambda task, seed: reparametrise(task, generator(seed), per_tensor=1),
    "per tensor": lambda task, seed: reparametrise(task, generator(seed), overall=1),
    "per parameter": lambda task, seed: reparametrise(task, generator(seed), per_parameter=10),
    "batch size": lambda task, seed: BatchSize(task, 16),
    "label noise": lambda task, seed: LabelNoise(task, 0.1 * seed),
    "gradient noise": lambda task, seed: GradientNoise(task, 0.5 * seed),
    "loss scale": lambda task, seed: LossScale(task, 10.0**seed),
    "float64": lambda task, seed: Precision(task, torch.float64),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def doubled(tensors):
    """Floating-point tensors of a batch or of parameters in float64."""
    if isinstance(tensors, dict):
        return dict(zip(tensors, doubled(tuple(tensors.values())), strict=True))
    return tuple(part.double() if part.is_floating_point() else part for part in tensors)


def gradient_and_loss(task, params, batch):
    return grad_and_value(task.loss)(doubled(params), doubled(batch))


def assert_same(left, right):
    torch.testing.assert_close(tuple(left), tuple(right), rtol=0, atol=0)


def population(members):
    """Gradients and losses of several tasks at once through the first one's loss, and one by one."""
    rng = generator(1)
    params = [member.init(rng) for member in members]
    batches = [member.batch(rng) for member in members]
    stacked = {name: torch.stack([one[name] for one in params]) for name in params[0]}
    together = vmap(grad_and_value(members[0].loss))(
        stacked, tuple(torch.stack(parts) for parts in zip(*batches, strict=True))
    )
    apart = [
        grad_and_value(member.loss)(one, batch)
        for member, one, batch in zip(members, params, batches, strict=True)
    ]
    return together, apart
