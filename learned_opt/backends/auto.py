"""The fastest way to run a rule on each tensor, of those there are."""

from typing import Any

from torch import Tensor

from learned_opt.backends.in_place import InPlaceUpdate
from learned_opt.backends.native import NativeUpdate
from learned_opt.backends.triton import TritonUpdate
from learned_opt.rule import UpdateRule
from learned_opt.selection import State


class AutoUpdate:
    """A fused step in place where one takes the tensor, and else the rule's own definition.

    Args:
        rule: The rule.

    Attributes:
        in_place: The fused steps, in the order in which they are asked.
    """

    def __init__(self, rule: UpdateRule) -> None:
        self.rule = rule
        kinds: tuple[type[InPlaceUpdate[Any]], ...] = (NativeUpdate, TritonUpdate)
        self.in_place = tuple(kind(rule, forced=False) for kind in kinds)

    def __call__(self, *args: Any, **options: Any) -> tuple[list[Tensor], State]:
        """As `UpdateRule.update`."""
        return self.rule.update(*args, **options)


def in_place(update: object) -> tuple[InPlaceUpdate[Any], ...]:
    """The steps in place that a backend has."""
    if isinstance(update, AutoUpdate):
        return update.in_place
    return (update,) if isinstance(update, InPlaceUpdate) else ()
