"""A fused step over parameters in place: in parts, so that few directions wait to be made orthogonal."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learned_opt.backends import InPlaceUpdate, Move
from learned_opt.members import Member
from learned_opt.memory import Meta
from learned_opt.precision import full_precision
from learned_opt.state import COMPUTE_DTYPE, ParameterState
from learned_opt.step import STACKED_ELEMENTS, Shapings, apply, shaped

WAITING_ELEMENTS = 2**20
"""On a CPU, directions wait to be made orthogonal until they hold this many elements; a larger one waits
alone. On a GPU, where every call of a fused step is some launches, it is as many as are made so together."""
ALIGNED_ELEMENTS = 16
"""Of a cache line."""

Room = Mapping[torch.device, Tensor]
"""Memory for directions that wait, flat, on every device."""


class Taken(NamedTuple):
    """What a fused step takes.

    Attributes:
        member: The parameter.
        state: Its state.
        waits: Whether its direction is to be made orthogonal, and not by the fused step itself.
    """

    member: Member
    state: ParameterState
    waits: bool


Part = list[Taken]
"""What a fused step takes at once."""


def advance_in_place(
    members: list[Member],
    states: list[ParameterState],
    meta: Meta,
    fused: InPlaceUpdate[Any],
    shapings: Shapings,
) -> tuple[list[Member], bool]:
    """Update in place, in one call for all of them, what a fused step takes.

    Args:
        members: Parameters of whatever groups, devices and shardings.
        states: The state of each.
        meta: Meta-parameters, on the CPU.
        fused: The backend.
        shapings: Of the rule.

    Returns:
        Those that it does not take, which are as they were; and whether one of the others was skipped because
        its gradient was not finite.

    Raises:
        RuntimeError: If the backend was asked for by name and does not take one; nothing has been changed.
    """
    library = fused.library()
    if library is None:
        return members, False
    taken: Part = []
    left: list[Member] = []
    for member, state in zip(members, states, strict=True):
        if fused.takes(library, member.param, member.grad, state):
            taken.append(Taken(member, state, member.is_shaped and not fused.shapes(member.param)))
        else:
            left.append(member)
    parts = list(_parts(taken))
    room = _room(parts)
    skipped = sum(_take(part, meta, fused, library, shapings, room) for part in parts)
    return left, skipped > 0


def _parts(taken: Part) -> Iterator[Part]:
    """Cut into what a fused step takes at once, each part of one device."""
    alike: dict[torch.device, Part] = {}
    for each in taken:
        alike.setdefault(each.member.param.device, []).append(each)
    for fellows in alike.values():
        yield from _parts_of_device(fellows)


def _parts_of_device(taken: Part) -> Iterator[Part]:
    """Cut so that few directions wait, those of one shape together."""
    part: Part = []
    waiting = 0.0
    for each in sorted(taken, key=_shape_waiting):
        share = _share_of_waiting(each)
        if waiting and waiting + share > 1:
            yield part
            part, waiting = [], 0.0
        part.append(each)
        waiting += share
    if part:
        yield part


def _shape_waiting(each: Taken) -> tuple[int, ...]:
    """What those that are made orthogonal together have in common; nothing where none waits."""
    return tuple(each.member.param.shape) if each.waits else ()


def _share_of_waiting(each: Taken) -> float:
    """Of what may wait on the device."""
    param = each.member.param
    most = WAITING_ELEMENTS if param.device.type == "cpu" else STACKED_ELEMENTS
    return param.numel() / most if each.waits else 0.0


def _room(parts: Iterable[Part]) -> Room:
    """Memory for the directions that wait in a part, on each device; one part after the other takes it."""
    most: Counter[torch.device] = Counter()
    for part in parts:
        sizes: Counter[torch.device] = Counter()
        for each in part:
            if each.waits:
                sizes[each.member.param.device] += _padded(each.member.param)
        most |= sizes  # the larger of both
    return {device: torch.empty(size, dtype=COMPUTE_DTYPE, device=device) for device, size in most.items()}


def _directions(part: Part, room: Room) -> Iterator[Tensor | None]:
    """Where the direction of each member goes, if it waits."""
    used = dict.fromkeys(room, 0)
    for each in part:
        param = each.member.param
        if not each.waits:
            yield None
            continue
        begin = used[param.device]
        used[param.device] += _padded(param)
        yield room[param.device][begin : begin + param.numel()].view(param.shape)


def _padded(param: Tensor) -> int:
    """Elements of its direction's place, so that the next one begins at a cache line."""
    return (param.numel() // ALIGNED_ELEMENTS + 1) * ALIGNED_ELEMENTS


def _take(
    taken: Part,
    meta: Meta,
    fused: InPlaceUpdate[Any],
    library: Any,
    shapings: Shapings,
    room: Room,
) -> int:
    moves = [
        _move_in_place(each.member, each.state, direction)
        for each, direction in zip(taken, _directions(taken, room), strict=True)
    ]
    waiting = [index for index, move in enumerate(moves) if move.direction is not None]
    before = [moves[index].state["skipped"].clone() for index in waiting]
    skipped = fused.step(library, meta, moves)
    for each, move in zip(taken, moves, strict=True):
        if move.direction is None and not each.member.param.is_contiguous():
            each.member.param.copy_(move.param)
    if waiting:
        members = [taken[index].member for index in waiting]
        directions = [move.direction for move in moves if move.direction is not None]
        after = [moves[index].state["skipped"] for index in waiting]
        seconds = [moves[index].state["memory"][-1] for index in waiting]
        with full_precision(directions[0].device):
            directions = shaped(members, directions, seconds, shapings)
        apply(members, directions, live=1 - (torch.stack(after) - torch.stack(before)))
    return skipped


def _move_in_place(member: Member, state: ParameterState, direction: Tensor | None) -> Move:
    param, grad, group = member
    return Move(
        param if param.is_contiguous() else param.detach().contiguous(),
        grad.detach().contiguous(),
        state,
        sign=-1.0 if group["maximize"] else 1.0,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        direction=direction,
        orthogonal=direction is None and member.is_shaped,
        total_steps=float(group["total_steps"] or 1),
    )
