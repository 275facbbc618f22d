"""The rule as it stands, one torch operation after the other."""

from collections.abc import Callable, Sequence

from torch import Tensor

from learned_opt.memory import Meta
from learned_opt.rule import State, UpdateRule

UpdateFunction = Callable[[Meta, State, Sequence[Tensor], Sequence[Tensor]], tuple[list[Tensor], State]]


def eager_update(rule: UpdateRule) -> UpdateFunction:
    """Run the rule's own definition."""
    return rule.update
