"""Meta-parameters as one flat vector, and back."""

from math import prod

import torch
from torch import Tensor

from learned_opt.memory import Meta


def flatten(meta: Meta) -> Tensor:
    """Concatenate meta-parameters in their order to ``[M]``."""
    return torch.cat([value.reshape(-1) for value in meta.values()])


def unflatten(vector: Tensor, like: Meta) -> Meta:
    """Cut ``[..., M]`` into meta-parameters of ``like``'s names and shapes under the same leading axes."""
    pieces = torch.split(vector, [prod(value.shape) for value in like.values()], dim=-1)
    return {
        name: piece.reshape(*vector.shape[:-1], *value.shape)
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }
