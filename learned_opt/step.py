"""Which tensors are updated in one pass, and how a direction moves them."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

PACK_ELEMENTS = 2**15
"""Tensors are updated together until they hold this many elements; a larger one goes alone."""

Group = dict[str, Any]


class Member(NamedTuple):
    """A parameter that moves in this step.

    Attributes:
        param: The parameter.
        grad: Its gradient.
        group: Its parameter group.
    """

    param: Tensor
    grad: Tensor
    group: Group


def moving(groups: Iterable[Group]) -> list[Member]:
    """The parameters that have a gradient, in order."""
    pairs = ((param, group) for group in groups for param in group["params"])
    return [Member(param, param.grad, group) for param, group in pairs if param.grad is not None]


def packs(members: Iterable[Member]) -> Iterator[list[Member]]:
    """Cut into the runs of one device that are updated in one pass; each keeps the order."""
    by_device: dict[torch.device, list[Member]] = {}
    for member in members:
        by_device.setdefault(member.param.device, []).append(member)
    for fellows in by_device.values():
        run: list[Member] = []
        elements = 0
        for member in fellows:
            size = member.param.numel()
            if size > PACK_ELEMENTS:
                yield [member]
                continue
            if elements + size > PACK_ELEMENTS:
                yield run
                run, elements = [], 0
            run.append(member)
            elements += size
        if run:
            yield run


def descended(members: Iterable[Member]) -> list[Tensor]:
    """The gradients to move against: negated copies where the group maximizes."""
    return [-member.grad if member.group["maximize"] else member.grad for member in members]


def apply(members: list[Member], directions: list[Tensor], *, live: Tensor) -> None:
    """Move the parameters: ``p = p (1 - lr weight_decay) - lr direction``.

    Args:
        members: ``n`` parameters; those of one group stand together.
        directions: One each; they are overwritten.
        live: 1, or 0 where the tensor must stay as it is and its direction is zero, ``[n]``.
    """
    start = 0
    while start < len(members):
        group, stop = members[start].group, start + 1
        while stop < len(members) and members[stop].group is group:
            stop += 1
        params = [member.param for member in members[start:stop]]
        _apply_group(group, params, directions[start:stop], live[start:stop])
        start = stop


def _apply_group(group: Group, params: list[Tensor], directions: list[Tensor], live: Tensor) -> None:
    lr, weight_decay = group["lr"], group["weight_decay"]
    if isinstance(lr, Tensor):
        lr = lr.to(live.device).reshape(())
    if weight_decay:
        torch._foreach_mul_(params, list((1 - lr * weight_decay * live).unbind()))
    torch._foreach_mul_(directions, -lr)
    torch._foreach_add_(params, directions)
