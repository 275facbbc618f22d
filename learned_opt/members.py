"""The parameters that move in a step, and which of them are updated in one pass."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from learned_opt.sharding import local_grad, sharding_key

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

    def descended(self) -> Tensor:
        """This process's part of the gradient to move against: negated where the group maximizes."""
        grad = local_grad(self.param, self.grad)
        return -grad if self.group["maximize"] else grad

    @property
    def is_shaped(self) -> bool:
        """Whether its direction is made orthogonal."""
        return bool(self.group["orthogonalize"]) and self.param.ndim > 1


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
