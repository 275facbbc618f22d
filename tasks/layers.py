"""Batch normalisation and dropout as pure functions of parameters and batch."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.dropout import _DropoutNd as AnyDropout

WORD = 2**32 - 1
ROUNDS = ((16, 0x45D9F3B), (16, 0x45D9F3B))


class SeededDropout(nn.Module):
    """Dropout whose mask is a function of a seed, which ``functional_call`` puts in place of its buffer.

    Args:
        rate: Share of the elements that become 0; the others are divided by ``1 - rate``.
    """

    seed: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements; the seed is an int64 without axes, at least 0."""
        if self.rate >= 1:
            return torch.zeros_like(x)
        index = torch.arange(x.numel(), device=x.device).view(x.shape)
        kept = _scramble(index + _scramble(self.seed)) >= self.rate * 2**32
        return torch.where(kept, x / (1 - self.rate), 0.0)


def _scramble(word: Tensor) -> Tensor:
    """Hash 32-bit numbers held as int64, elementwise: products stay below 2**63."""
    word = word & WORD
    for shift, factor in ROUNDS:
        word = ((word ^ (word >> shift)) * factor) & WORD
    return word ^ (word >> 16)


def with_batch_statistics(module: nn.Module) -> nn.Module:
    """Return the module with batch norms that know the statistics of their batch alone, no running averages.

    The module is returned as it is where it has none, else a copy that shares its parameters.
    """
    if not has_batch_norm(module):
        return module
    return replace_all_batch_norm_modules_(_sharing_copy(module))


def has_batch_norm(module: nn.Module) -> bool:
    """Tell whether a layer of the module is a batch normalisation."""
    return any(isinstance(layer, BatchNorm) for layer in module.modules())


def with_seeded_dropout(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """Replace each ``nn.Dropout`` of positive rate in a copy that shares the module's parameters.

    Returns:
        The copy, and the names of its seed buffers.

    Raises:
        ValueError: If the module drops in another way, or not at all.
    """
    copy = _sharing_copy(module)
    replaced: list[str] = []
    for name, layer in list(copy.named_modules()):
        if not isinstance(layer, AnyDropout) or layer.p == 0:
            continue
        if type(layer) is not nn.Dropout or not name:
            raise ValueError(
                f"only layers of type Dropout can drop by a seed, got {type(layer).__name__} {name!r}"
            )
        parent, _, attribute = name.rpartition(".")
        setattr(copy.get_submodule(parent), attribute, SeededDropout(layer.p))
        replaced.append(f"{name}.seed")
    if not replaced:
        raise ValueError(f"{type(module).__name__} has no layer of type Dropout with a positive rate")
    return copy, replaced


@torch.no_grad()
def calibrated(module: nn.Module, params: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> nn.Module:
    """Return a copy for inference: the given parameters, and batch norms' averages taken over ``inputs``."""
    copy = deepcopy(module).to(inputs[0].device).eval()
    copy.load_state_dict(dict(params), strict=False)
    for layer in copy.modules():
        if isinstance(layer, BatchNorm):
            layer.momentum = 1.0
            layer.train()
    copy(*inputs)
    return copy.eval()


def _sharing_copy(module: nn.Module) -> nn.Module:
    return deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})
