"""Where each pair of a unit stands in its episode, and the plan of its next window."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from meta_train.config import MetaTrainConfig
from meta_train.objective import weights
from meta_train.unroll import learning_rates, stack_batches, stack_params
from tasks.base import Batch, Params, Task, TaskFamily, draw_seed, log_uniform

_TENSORS = ("step", "horizon", "peak", "cosine", "seeds")


class Window(NamedTuple):
    """Everything that the next ``T`` steps of ``P`` pairs need, drawn before they are taken.

    An episode may begin with any of the steps; at most one does for each pair.

    Attributes:
        batches: ``[T, P, ...]``.
        probes: Other batches, to measure on, or nothing.
        lrs: Learning rates, ``[T, P]``.
        totals: Steps of the episode that each step belongs to, ``[T, P]``.
        weight: How much each step counts, ``[T, P]``.
        born: Whether an episode begins with the step, ``[T, P]``.
        starts: Parameters to begin with, ``[P, ...]``; those of pairs that begin nothing are not used.
    """

    batches: Batch
    probes: Batch
    lrs: Tensor
    totals: Tensor
    weight: Tensor
    born: Tensor
    starts: Params

    @property
    def inside(self) -> Tensor:
        """Whether the step belongs to an episode that began inside the window, after its first step."""
        later = torch.cat([torch.zeros_like(self.born[:1]), self.born[1:]])
        return later.cumsum(0) > 0


class Episodes:
    """The episodes of a unit's pairs.

    Attributes:
        step: Steps taken, ``[P]``.
        horizon: Steps of the episode, ``[P]``; it is over when they are taken.
        peak: Inner learning rate at its start, ``[P]``.
        cosine: Whether the learning rate falls along a cosine, ``[P]``.
        seeds: Of the tasks, ``[P]``.

    Args:
        family: Of the tasks.
        config: Of the run.
        generator: Draws everything.
    """

    def __init__(self, family: TaskFamily, config: MetaTrainConfig, generator: torch.Generator) -> None:
        self.family, self.config, self.generator = family, config, generator
        pairs = config.unit_size
        self.step, self.horizon = torch.zeros(pairs), torch.zeros(pairs)
        self.peak = torch.ones(pairs)
        self.cosine = torch.zeros(pairs, dtype=torch.bool)
        self.seeds = torch.zeros(pairs, dtype=torch.int64)
        self.tasks = [self._task(pair) for pair in range(pairs)]

    @property
    def over(self) -> Tensor:
        """Whether each pair's episode has ended, or none has begun, ``[P]``."""
        return self.step >= self.horizon

    def plan(self, longest: int) -> Window:
        """Draw the next window and stand at its end.

        Args:
            longest: Longest episode that may begin.
        """
        stagger = not bool(self.horizon.any())
        whole = self.config.estimator == "full-es"
        length = self._draw_horizon(longest) if whole else self.config.truncation
        pieces: list[list[Any]] = []
        starts: list[Params] = []
        born = torch.zeros(length, len(self.tasks), dtype=torch.bool)
        for pair in range(len(self.tasks)):
            birth = int((self.horizon[pair] - self.step[pair]).clamp_min(0))
            parts = [self._go_on(pair, min(birth, length), length)] if birth else []
            starts.append({})
            if birth < length:
                born[birth, pair] = True
                horizon = length if whole else self._draw_horizon(longest, stagger=stagger)
                starts[-1] = self._begin(pair, horizon)
                parts.append(self._go_on(pair, length - birth, length))
            pieces.append([_joined(columns) for columns in zip(*parts, strict=True)])
        batches, probes, lrs, totals, weight = zip(*pieces, strict=True)
        return Window(
            stack_batches(list(batches), dim=1),
            stack_batches(list(probes), dim=1) if probes[0] else (),
            torch.stack(lrs, dim=1),
            torch.stack(totals, dim=1),
            torch.stack(weight, dim=1),
            born,
            _filled(starts),
        )

    def _go_on(self, pair: int, count: int, window: int) -> tuple[Batch, Batch, Tensor, Tensor, Tensor]:
        """The next ``count`` steps of a pair within its episode."""
        config, task = self.config, self.tasks[pair]
        place = (self.step[pair : pair + 1], self.horizon[pair : pair + 1], count)
        lrs = learning_rates(self.peak[pair : pair + 1], self.cosine[pair : pair + 1], *place)[:, 0]
        weight = weights(config.objective, *place, window, final_share=config.final_share)[:, 0]
        batches = task.batches(self.generator, count)
        probing = config.loss_split == "validation"
        probes = task.batches(self.generator, count, "validation") if probing else ()
        self.step[pair] += count
        totals = self.horizon[pair].expand(count)
        return batches, probes, lrs, totals, weight

    def _begin(self, pair: int, horizon: int) -> Params:
        """Begin an episode with a fresh task; its parameters."""
        config, generator = self.config, self.generator
        self.seeds[pair] = draw_seed(generator)
        task = self.tasks[pair] = self._task(pair)
        self.step[pair], self.horizon[pair] = 0, horizon
        low, high = task.learning_rates
        slow, fast = (low * (high / low) ** share for share in config.learning_rate_range)
        self.peak[pair] = log_uniform(slow, fast, generator)
        self.cosine[pair] = bool(torch.rand((), generator=generator) < config.cosine_share)
        return task.init(generator)

    def _draw_horizon(self, longest: int, *, stagger: bool = False) -> int:
        """Log-uniform; the first of all is cut short at random, so that pairs do not all end together."""
        drawn = log_uniform(self.config.horizon[0], longest, self.generator)
        if stagger:
            drawn *= float(torch.rand((), generator=self.generator))
        return max(self.config.truncation, round(drawn))

    def _task(self, pair: int) -> Task:
        return self.family.sample(torch.Generator().manual_seed(int(self.seeds[pair])))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next window depends on."""
        tensors = {name: getattr(self, name).clone() for name in _TENSORS}
        return {"generator": self.generator.get_state(), **tensors}

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Continue where `state_dict` was taken."""
        self.generator.set_state(saved["generator"])
        for name in _TENSORS:
            setattr(self, name, saved[name].clone())
        self.tasks = [self._task(pair) for pair in range(len(self.seeds))]


def _joined(parts: tuple[Any, ...]) -> Any:
    """Parts of a window end to end: tensors, or batches of them."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))


def _filled(starts: list[Params]) -> Params:
    """Stacked, with zeros for those that begin nothing; empty if none does."""
    like = next((start for start in starts if start), {})
    blank = {name: torch.zeros_like(value) for name, value in like.items()}
    return stack_params([start or blank for start in starts]) if like else {}
