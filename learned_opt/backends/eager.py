"""The rule as it stands, one torch operation after the other."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from learned_opt.memory import Meta
from learned_opt.rule import UpdateRule
from learned_opt.selection import State
from learned_opt.sharding import Sharding


class UpdateFunction(Protocol):
    """What a backend gives: `UpdateRule.update`, run in its way."""

    def __call__(
        self,
        meta: Meta,
        state: State,
        grads: Sequence[Tensor],
        params: Sequence[Tensor],
        *,
        total_steps: Tensor | None = None,
        sharding: Sharding | None = None,
    ) -> tuple[list[Tensor], State]:
        """As `UpdateRule.update`."""
        ...


def eager_update(rule: UpdateRule) -> UpdateFunction:
    """Run the rule's own definition."""
    return rule.update
