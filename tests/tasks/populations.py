"""Populations of tasks against each of their members alone."""

import torch
from torch.func import grad_and_value, vmap


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_population_equals_loop(members, *, rtol=1e-3):
    """Losses and gradients of all members at once are those of each alone; gradients to their own size."""
    params = [member.init(generator(index)) for index, member in enumerate(members)]
    batches = [member.batch(generator(index)) for index, member in enumerate(members)]
    stacked = {name: torch.stack([one[name] for one in params]) for name in params[0]}
    stacked_batch = tuple(torch.stack(parts) for parts in zip(*batches, strict=True))
    gradients, losses = vmap(grad_and_value(members[0].loss))(stacked, stacked_batch)
    for index, member in enumerate(members):
        gradient, loss = grad_and_value(member.loss)(params[index], batches[index])
        torch.testing.assert_close(losses[index], loss, rtol=0.1 * rtol, atol=1e-5)
        for name, value in gradient.items():
            size = value.abs().max().item()
            torch.testing.assert_close(
                gradients[name][index], value, rtol=rtol, atol=0.1 * rtol * size + 1e-6
            )
