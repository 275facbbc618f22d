"""A work unit: pairs of inner problems of one family, advanced together by one window at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from learned_opt.memory import Meta
from learned_opt.rule import UpdateRule
from learned_opt.selection import State
from meta_train.config import MetaTrainConfig
from meta_train.episodes import Episodes, Window
from meta_train.estimators import Perturbation
from meta_train.estimators.backprop import differentiate
from meta_train.flat import unflatten
from meta_train.objective import log_ratio, meta_loss
from meta_train.unroll import Expert, InnerStep, blank_state, paired_step, repeated
from tasks import get_family
from tasks.base import Params

REPORT = ("before", "after", "began", "over", "loss", "diverged", "steps")
"""What a unit says of each pair after a window, all that processes exchange of it: ``L+ - L-`` of the episode
that the window began in, the same of one that began inside it, whether one did, whether the pair's episode is
now over, the mean meta-loss, how many of its members had a loss that was not finite, and the steps taken.
Such a loss counts as the task's upper bound."""


class Members(NamedTuple):
    """The inner problems between two steps.

    Attributes:
        params: Parameters, ``[members, P, ...]``.
        state: State of the rule, ``[members, P, ...]``.
        first: Normalised loss at the beginning of each pair's episode, ``[P]``.
        total: Sum of the window's meta-losses, the mean over members, ``[P]``.
        diverged: Whether a loss in the window was not finite, ``[members, P]``.
    """

    params: Params
    state: State
    first: Tensor
    total: Tensor
    diverged: Tensor


@dataclass(frozen=True)
class Moment:
    """What the schedules say of an outer step.

    Attributes:
        longest: Longest episode that may begin.
        imitation: Weight of the imitation of the expert.
    """

    longest: int
    imitation: float = 0.0


class Unit:
    """``P`` pairs of one family.

    A pair shares its task, starting weights, batches and learning rates; its two members differ in the sign
    of the noise on the meta-parameters. What a unit computes depends on its own state, the meta-parameters
    and the noise alone, so that it does not matter which process holds it.

    Args:
        index: Among all units of the run.
        family: Name of the family.
        config: Of the run.
        rule: The rule that is trained.
        like: Meta-parameters of the names and shapes in use.
        step: Inner step of another unit of the family, which need not be compiled again.
        expert: Whom to imitate.
        device: Where to compute. Whatever is drawn is drawn on the CPU.
    """

    def __init__(
        self,
        index: int,
        family: str,
        config: MetaTrainConfig,
        rule: UpdateRule,
        like: Meta,
        *,
        step: InnerStep | None = None,
        expert: Expert | None = None,
        device: str = "cpu",
    ) -> None:
        self.index, self.name, self.config, self.like, self.device = index, family, config, like, device
        generator = torch.Generator().manual_seed(config.seed + 1_000_003 * (1 + index))
        self.episodes = Episodes(get_family(family, folder=config.data), config, generator)
        self.signs = 1 if config.estimator == "backprop" else 2
        task = self.episodes.tasks[0]
        start = task.init(torch.Generator().manual_seed(0))
        self.blank = {name: value.to(device) for name, value in blank_state(rule, start, expert).items()}
        shape = (self.signs, config.unit_size)
        params = {name: value.to(device) for name, value in repeated(start, *shape).items()}
        ones = torch.ones(config.unit_size, device=device)
        nobody = torch.zeros(shape, dtype=torch.bool, device=device)
        self.members = Members(params, repeated(self.blank, *shape), ones, 0 * ones, nobody)
        self.inner_step = step or paired_step(
            rule,
            task,
            compiled=config.compiled and self.signs == 2,
            expert=expert,
            first_order=config.first_order,
        )

    def evolve(self, theta: Tensor, carried: Perturbation, renewed: Perturbation, moment: Moment) -> Tensor:
        """Advance both members of every pair by one window.

        Args:
            theta: Meta-parameters, ``[M]``.
            carried: What each pair carries through the window.
            renewed: What it carries once an episode has begun inside the window.
            moment: What the schedules say.

        Returns:
            The columns of `REPORT`, ``[P, 7]``.
        """
        window, inside = self._plan(moment)
        meta = self._perturbed(theta, carried)
        changing = not torch.equal(carried.noise, renewed.noise)

        def meta_at(step: int) -> Meta:
            if not (changing and inside[step].any()):
                return meta
            return self._perturbed(theta, renewed.where(inside[step], carried))

        with torch.no_grad():
            self.members, values = self._advance(window, meta_at, self.members, moment, 0, len(window.lrs))
        differences = (values[:, 0] - values[:, 1]).to("cpu")
        zero = torch.zeros(())
        parts = [torch.where(chosen, differences, zero).sum(0) for chosen in (~inside, inside)]
        return self._report(parts, inside)

    def backpropagate(self, theta: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """Advance every member by one window and differentiate through it.

        Args:
            theta: Meta-parameters, ``[M]``.
            moment: What the schedules say.

        Returns:
            The gradient of the mean over pairs, ``[M]``, and the columns of `REPORT`, ``[P, 7]``, without
            differences.
        """
        window, inside = self._plan(moment)
        pairs = self.config.unit_size

        def segment(leaf: Tensor, members: Members, start: int, stop: int) -> tuple[Tensor, Members]:
            meta = unflatten(leaf.expand(1, pairs, -1), self.like)
            members, values = self._advance(window, lambda _: meta, members, moment, start, stop)
            return values.sum() / pairs, members

        gradient, _, self.members = differentiate(
            segment, theta.to(self.device), self.members, len(window.lrs)
        )
        nothing = torch.zeros(pairs)
        return gradient.to("cpu"), self._report([nothing, nothing], inside)

    def _plan(self, moment: Moment) -> tuple[Window, Tensor]:
        window = self.episodes.plan(moment.longest)
        inside = window.inside
        if self.device != "cpu":  # what decides the course of the loop stays where it can be read at no cost
            moved = tree_map_only(Tensor, lambda tensor: tensor.to(self.device), window)
            window = moved._replace(born=window.born)
        total, diverged = torch.zeros_like(self.members.total), torch.zeros_like(self.members.diverged)
        self.members = self.members._replace(total=total, diverged=diverged)
        return window, inside

    def _perturbed(self, theta: Tensor, carried: Perturbation) -> Meta:
        """Meta-parameters of all members, ``[2, P, ...]``."""
        noise = carried.noise.to(self.device)
        theta = theta.to(self.device)
        return unflatten(torch.stack([theta + noise, theta - noise]), self.like)

    def _advance(
        self,
        window: Window,
        meta_at: Callable[[int], Meta],
        members: Members,
        moment: Moment,
        start: int,
        stop: int,
    ) -> tuple[Members, Tensor]:
        """Steps ``start`` to ``stop`` of a window; the weighed meta-losses ``[steps, members, P]``."""
        params, state = members.params, members.state
        unrolled = []
        for t in range(start, stop):
            if window.starts and bool(window.born[t].any()):
                chosen = window.born[t].to(self.device)
                blank = {name: value[None] for name, value in self.blank.items()}
                params, state = _replaced(params, window.starts, chosen), _replaced(state, blank, chosen)
            batch, probe = (tuple(part[t] for part in drawn) for drawn in (window.batches, window.probes))
            params, state, *measured = self.inner_step(
                meta_at(t), params, state, batch, probe, window.lrs[t], window.totals[t]
            )
            unrolled.append(torch.stack(measured))
        losses, distances = torch.stack(unrolled, dim=1)
        values, first = self._values(losses, members.first, window.born[start:stop].to(self.device))
        values = values + moment.imitation * distances
        total = members.total + values.mean(1).sum(0).detach()
        diverged = members.diverged | ~losses.isfinite().all(0)
        return Members(params, state, first, total, diverged), values * window.weight[start:stop, None]

    def _values(self, losses: Tensor, first: Tensor, born: Tensor) -> tuple[Tensor, Tensor]:
        """Losses on the scale of the configuration, and the first losses of the episodes at the end."""
        task, compression = self.episodes.tasks[0], self.config.compression
        opening = (task.normalise(losses[:, 0]) * born).sum(0).detach()
        since = torch.where(born.cumsum(0) > 0, opening, first)
        if self.config.loss_scale == "asinh":
            return meta_loss(task, losses, compression=compression), since[-1]
        return log_ratio(task, losses, since[:, None], compression=compression), since[-1]

    def _report(self, differences: list[Tensor], inside: Tensor) -> Tensor:
        loss = (self.members.total / len(inside)).to("cpu")
        diverged = self.members.diverged.sum(0).to("cpu", torch.float32)
        steps = torch.full_like(loss, len(inside))
        columns = [*differences, inside[-1].float(), self.episodes.over.float(), loss, diverged, steps]
        return torch.stack(columns, dim=1)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next window depends on."""
        params, state, first, *_ = self.members
        return {"episodes": self.episodes.state_dict(), "params": params, "state": state, "first": first}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.episodes.load_state_dict(saved["episodes"])
        params, state, first = (
            tree_map_only(Tensor, lambda tensor: tensor.to(self.device), saved[key])
            for key in ("params", "state", "first")
        )
        self.members = self.members._replace(params=params, state=state, first=first)


def _replaced(tensors: dict[str, Tensor], fresh: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """Tensors ``[members, P, ...]`` with fresh ones ``[P, ...]`` or ``[1, ...]`` for the chosen pairs."""
    return {
        name: torch.where(chosen.reshape(1, -1, *(1,) * (value.ndim - 2)), fresh[name][None], value)
        for name, value in tensors.items()
    }
