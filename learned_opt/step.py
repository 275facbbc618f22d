"""Which tensors are updated in one pass, and how a direction moves them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learned_opt.backends import InPlaceUpdate, Move, UpdateFunction
from learned_opt.layout import Layout
from learned_opt.memory import Meta
from learned_opt.orthogonal import Shaping
from learned_opt.orthogonal_in_place import shape_in_place
from learned_opt.sharding import Sharding, local, local_grad, part_of, sharding_key, whole
from learned_opt.state import COMPUTE_DTYPE, ParameterState, pack, replace, unpack_into

PACK_ELEMENTS = 2**15
"""Tensors are updated together until they hold this many elements; a larger one goes alone."""
WAITING_ELEMENTS = 2**20
"""On a CPU, directions wait to be made orthogonal until they hold this many elements; a larger one waits
alone. On a GPU, where every call of a fused step is some launches, all wait together."""
ALIGNED_ELEMENTS = 16
"""Of a cache line."""

Group = dict[str, Any]
Shapings = Mapping[torch.device, Shaping]
"""`UpdateRule.shaping` on every device."""
Room = Mapping[torch.device, Tensor]
"""Memory for directions that wait, flat, on every device."""


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

    def descended(self) -> Tensor:
        """This process's part of the gradient to move against: negated where the group maximizes."""
        grad = local_grad(self.param, self.grad)
        return -grad if self.group["maximize"] else grad


Part = list[tuple[Member, ParameterState]]
"""What a fused step takes at once."""


def moving(groups: Iterable[Group]) -> list[Member]:
    """The parameters that have a gradient, in order."""
    pairs = ((param, group) for group in groups for param in group["params"])
    return [Member(param, param.grad, group) for param, group in pairs if param.grad is not None]


def packs(members: Iterable[Member]) -> Iterator[list[Member]]:
    """Cut into runs of one device and one sharding that are updated in one pass; each keeps the order."""
    alike: dict[tuple[Any, ...], list[Member]] = {}
    for member in members:
        alike.setdefault(sharding_key(member.param), []).append(member)
    for fellows in alike.values():
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
    with torch.autocast(params[0].device.type, enabled=False):
        directions, after = update(
            meta, before, grads, params, total_steps=_total_steps(members), sharding=sharding
        )
        seconds = layout.split(after["memory"][-1])
        directions = _shaped(members, directions, seconds, shapings)
    unpack_into(states, after, layout)
    skipped = after["skipped"] - before["skipped"]
    apply(members, directions, live=1 - skipped)
    return skipped


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
    pairs = list(zip(members, states, strict=True))
    taken = [
        (member, state) for member, state in pairs if fused.takes(library, member.param, member.grad, state)
    ]
    known = {id(member) for member, _ in taken}
    parts = list(_parts(taken))
    room = _room(parts)
    skipped = sum(_take(part, meta, fused, library, shapings, room) for part in parts)
    return [member for member in members if id(member) not in known], skipped > 0


def _parts(taken: Part) -> Iterator[Part]:
    """Cut into what a fused step takes at once, so that few directions wait; each part keeps the order."""
    part: Part = []
    waiting = 0
    for member, state in taken:
        size = member.param.numel() if _is_shaped(member) and member.param.device.type == "cpu" else 0
        if waiting and waiting + size > WAITING_ELEMENTS:
            yield part
            part, waiting = [], 0
        part.append((member, state))
        waiting += size
    if part:
        yield part


def _room(parts: Iterable[Part]) -> Room:
    """Memory for the directions that wait in a part, on each device; one part after the other takes it."""
    most: Counter[torch.device] = Counter()
    for part in parts:
        sizes: Counter[torch.device] = Counter()
        for member, _ in part:
            if _is_shaped(member):
                sizes[member.param.device] += _padded(member.param)
        most |= sizes  # the larger of both
    return {device: torch.empty(size, dtype=COMPUTE_DTYPE, device=device) for device, size in most.items()}


def _directions(part: Part, room: Room) -> Iterator[Tensor | None]:
    """Where the direction of each member goes, if it waits."""
    used = dict.fromkeys(room, 0)
    for member, _ in part:
        param = member.param
        if not _is_shaped(member):
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
        _move_in_place(member, state, direction)
        for (member, state), direction in zip(taken, _directions(taken, room), strict=True)
    ]
    shaped = [index for index, move in enumerate(moves) if move.direction is not None]
    before = [moves[index].state["skipped"].clone() for index in shaped]
    skipped = fused.step(library, meta, moves)
    for (member, _), move in zip(taken, moves, strict=True):
        if move.direction is None and not member.param.is_contiguous():
            member.param.copy_(move.param)
    if shaped:
        members = [taken[index][0] for index in shaped]
        directions = [move.direction for move in moves if move.direction is not None]
        after = [moves[index].state["skipped"] for index in shaped]
        seconds = [moves[index].state["memory"][-1] for index in shaped]
        directions = _shaped(members, directions, seconds, shapings)
        apply(members, directions, live=1 - (torch.stack(after) - torch.stack(before)))
    return skipped


def _move_in_place(member: Member, state: ParameterState, direction: Tensor | None) -> Move:
    group, param = member.group, member.param.detach()
    return Move(
        param.contiguous(),
        member.grad.detach().contiguous(),
        state,
        sign=-1.0 if group["maximize"] else 1.0,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        direction=direction,
        total_steps=float(group["total_steps"] or 1),
    )


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
    directions, after = update(meta, before, grads, params, total_steps=_total_steps(members))
    skipped = (after["skipped"] - before["skipped"]).detach()
    layout = Layout.of(params)
    directions = _shaped(members, directions, layout.split(after["memory"][-1]), shapings)
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


def _shaped(
    members: list[Member], directions: list[Tensor], seconds: Sequence[Tensor], shapings: Shapings
) -> list[Tensor]:
    """The directions as their groups want them: those of matrices made orthogonal where asked."""
    return [
        _made_orthogonal(member.param, direction, second, shapings) if _is_shaped(member) else direction
        for member, direction, second in zip(members, directions, seconds, strict=True)
    ]


def _made_orthogonal(param: Tensor, direction: Tensor, second: Tensor, shapings: Shapings) -> Tensor:
    shaping = shapings[direction.device]
    if shaping.exponent is not None:  # else it is not looked at, and need not be gathered
        second = whole(second, param)
    direction = whole(direction, param)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        direction = shaping(direction, second)
    else:
        shape_in_place(shaping, direction, second)
    return part_of(direction, param)


def _is_shaped(member: Member) -> bool:
    return bool(member.group["orthogonalize"]) and member.param.ndim > 1


def apply(members: list[Member], directions: list[Tensor], *, live: Tensor) -> None:
    """Move the parameters: ``p = p (1 - lr weight_decay) - lr direction``.

    Args:
        members: ``n`` parameters; those of one group stand together.
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
