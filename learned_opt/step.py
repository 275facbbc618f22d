"""How parameters and their states are updated, and a direction moves them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from learned_opt.backends import UpdateFunction
from learned_opt.layout import Layout
from learned_opt.members import Group, Member
from learned_opt.memory import Meta
from learned_opt.orthogonal import Shaping
from learned_opt.orthogonal_in_place import gains_from_stacks, shape_in_place
from learned_opt.precision import full_precision
from learned_opt.sharding import Sharding, local, part_of, whole
from learned_opt.state import ParameterState, pack, replace, unpack_into

Shapings = Mapping[torch.device, Shaping]
"""`UpdateRule.shaping` on every device."""
STACKED_ELEMENTS = 2**23
"""Of directions that are made orthogonal together, 32 MiB, at most, unless one alone has more."""


def advance(
    members: list[Member],
    states: list[ParameterState],
    meta: Meta,
    update: UpdateFunction,
    shapings: Shapings,
) -> Tensor:
    """Update the parameters and states of one run in place.

    Args:
        members: ``n`` parameters of one run.
        states: The state of each.
        meta: Meta-parameters, on their device.
        update: As `UpdateRule.update`.
        shapings: Of the rule.

    Returns:
        1 for each tensor that was left as it is because its gradient was not finite, else 0, ``[n]``.
    """
    params = [local(member.param) for member in members]
    grads = [member.descended() for member in members]
    before, sharding = pack(states), Sharding.of([member.param for member in members])
    layout = Layout.of(params, sharding=sharding)
    with full_precision(params[0].device):
        directions, after = update(
            meta, before, grads, params, total_steps=_total_steps(members), sharding=sharding
        )
        seconds = layout.split(after["memory"][-1])
        directions = shaped(members, directions, seconds, shapings)
    unpack_into(states, after, layout)
    skipped = after["skipped"] - before["skipped"]
    apply(members, directions, live=1 - skipped)
    return skipped


def advance_differentiably(
    members: list[Member],
    states: list[ParameterState],
    meta: Meta,
    update: UpdateFunction,
    shapings: Shapings,
) -> Tensor:
    """`advance` where autograd records it: states are replaced, with what they were computed from."""
    params = [member.param.clone() for member in members]
    before = pack(states)
    grads = [member.descended() for member in members]
    layout = Layout.of(params)
    with full_precision(params[0].device):
        directions, after = update(meta, before, grads, params, total_steps=_total_steps(members))
        directions = shaped(members, directions, layout.split(after["memory"][-1]), shapings)
    skipped = (after["skipped"] - before["skipped"]).detach()
    for member, direction, live in zip(members, directions, (1 - skipped).unbind(), strict=True):
        _move(member.group, member.param, direction, live)
    replace(states, after, layout)
    return skipped


def _total_steps(members: list[Member]) -> Tensor | None:
    """How many steps there are for each member, ``[n]``; made on its device, without a copy to it."""
    totals = [member.group["total_steps"] for member in members]
    if totals[0] is None:
        return None
    device = local(members[0].param).device
    if len(set(totals)) == 1:
        return torch.full((len(totals),), float(totals[0]), device=device)
    return torch.stack([torch.full((), float(total), device=device) for total in totals])


def shaped(
    members: list[Member], directions: list[Tensor], seconds: Sequence[Tensor], shapings: Shapings
) -> list[Tensor]:
    """The directions as their groups want them: those of matrices made orthogonal where asked."""
    result = list(directions)
    for places in _together(members, directions):
        params = [members[place].param for place in places]
        own = [whole(directions[place], param) for place, param in zip(places, params, strict=True)]
        squares = [seconds[place] for place in places]
        shaping = shapings[own[0].device]
        if shaping.exponent is not None:  # else they are not looked at, and need not be gathered
            squares = [whole(second, param) for second, param in zip(squares, params, strict=True)]
        if _recorded():
            own = [shaping(*pair) for pair in zip(own, squares, strict=True)]
        else:
            shape_in_place(shaping, own, squares)
        for place, direction, param in zip(places, own, params, strict=True):
            result[place] = part_of(direction, param)
    return result


def _recorded() -> bool:
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


def _together(members: list[Member], directions: list[Tensor]) -> Iterator[list[int]]:
    """Places of directions that are made orthogonal together: of one shape, where that gains."""
    alike: dict[Any, list[int]] = {}
    for place, (member, direction) in enumerate(zip(members, directions, strict=True)):
        if member.is_shaped:
            alone = _recorded() or isinstance(member.param, DTensor) or not gains_from_stacks(direction)
            kind = (direction.shape, direction.dtype, direction.device)
            alike.setdefault(place if alone else kind, []).append(place)
    for places in alike.values():
        count = max(1, STACKED_ELEMENTS // max(1, directions[places[0]].numel()))
        yield from (places[begin : begin + count] for begin in range(0, len(places), count))


def apply(members: list[Member], directions: list[Tensor], *, live: Tensor) -> None:
    """Move the parameters: ``p = p (1 - lr weight_decay) - lr direction``.

    Args:
        members: ``n`` parameters of one device; neighbours of one group move in one operation.
        directions: One each; they are overwritten.
        live: 1, or 0 where the tensor must stay as it is and its direction is zero, ``[n]``.
    """
    start = 0
    for _, fellows in groupby(members, key=lambda member: id(member.group)):
        alike = list(fellows)
        stop = start + len(alike)
        params = [local(member.param) for member in alike]
        _apply_group(alike[0].group, params, directions[start:stop], live[start:stop])
        start = stop


def _apply_group(group: Group, params: list[Tensor], directions: list[Tensor], live: Tensor) -> None:
    lr, weight_decay = _rate(group, live), group["weight_decay"]
    if torch.compiler.is_compiling():  # a foreach operation is compiled anew for every float lr
        for param, direction, alive in zip(params, directions, live.unbind(), strict=True):
            _move(group, param, direction, alive)
        return
    if weight_decay:
        torch._foreach_mul_(params, list((1 - lr * weight_decay * live).unbind()))
    torch._foreach_mul_(directions, -lr)
    torch._foreach_add_(params, directions)


def _move(group: Group, param: Tensor, direction: Tensor, live: Tensor) -> None:
    lr, weight_decay = _rate(group, live), group["weight_decay"]
    if weight_decay:
        param.mul_(1 - lr * weight_decay * live)
    param.sub_(lr * direction)


def _rate(group: Group, like: Tensor) -> float | Tensor:
    lr: float | Tensor = group["lr"]
    return lr.to(like.device).reshape(()) if isinstance(lr, Tensor) else lr
