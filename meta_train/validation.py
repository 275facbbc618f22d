"""Meta-validation: the rule against tuned Adam on tasks that it is not trained on."""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from learned_opt.memory import Meta
from learned_opt.rule import UpdateRule
from meta_train.objective import meta_loss
from meta_train.ranks import Ranks
from meta_train.unroll import (
    InnerStep,
    learning_rates,
    repeated,
    shared_step,
    stack_batches,
    stack_params,
    unroll,
)
from tasks import get_task

LEARNING_RATES = 7
SEEDS = 3
CHUNK = 50
FLOOR = 2e-2


@dataclass(frozen=True)
class Validation:
    """Outcome of one validation.

    Attributes:
        final: Final meta-loss on each task at its best learning rate and schedule.
        score: Mean over tasks of ``log((final + 0.02) / (Adam's + 0.02))``: below 0 is better than Adam.
    """

    final: dict[str, float]
    score: float


class Validator:
    """Trains each validation task at several learning rates, constant and cosine, over the same seeds.

    Adam is the same rule at its initial meta-parameters, tuned in the same way. Tasks are shared out over the
    processes.

    Args:
        names: Tasks.
        rule: The rule.
        adam: Its initial meta-parameters.
        steps: Length of an episode.
        compression: Of the meta-loss.
        compiled: Compile the inner step.
        ranks: The processes.
        device: Where to compute.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        rule: UpdateRule,
        adam: Meta,
        *,
        steps: int,
        compression: float,
        compiled: bool,
        ranks: Ranks | None = None,
        device: str = "cpu",
    ) -> None:
        self.rule, self.steps, self.compression = rule, steps, compression
        self.names, self.ranks, self.device = names, ranks or Ranks(), device
        with self.ranks.all_or_none():
            self.tasks = {name: get_task(name) for index, name in enumerate(names) if self.ranks.owns(index)}
        self.step_functions: dict[str, InnerStep] = {
            name: shared_step(rule, task, compiled=compiled) for name, task in self.tasks.items()
        }
        self.adam = self._finals(adam)

    def __call__(self, meta: Meta) -> Validation:
        """Validate meta-parameters."""
        final = self._finals(meta)
        ratios = [log((final[name] + FLOOR) / (self.adam[name] + FLOOR)) for name in self.names]
        return Validation(final, sum(ratios) / len(ratios))

    def _finals(self, meta: Meta) -> dict[str, float]:
        with self.ranks.all_or_none():
            own = [self._final(name, meta) if name in self.tasks else 0.0 for name in self.names]
        total = torch.stack(self.ranks.gather(torch.tensor(own, dtype=torch.float64))).sum(0)
        return dict(zip(self.names, total.tolist(), strict=True))

    @torch.no_grad()
    def _final(self, name: str, meta: Meta) -> float:
        task = self.tasks[name]
        low, high = task.learning_rates
        grid = torch.logspace(log(low), log(high), LEARNING_RATES, base=torch.e)
        peak = grid.repeat_interleave(2).repeat(SEEDS)
        cosine = torch.tensor([False, True]).repeat(LEARNING_RATES * SEEDS)
        members = 2 * LEARNING_RATES
        starts = [task.init(torch.Generator().manual_seed(seed)) for seed in range(SEEDS)]
        params = stack_params([start for start in starts for _ in range(members)])
        params = {key: value.to(self.device) for key, value in params.items()}
        meta = {key: value.to(self.device) for key, value in meta.items()}
        blank = self.rule.init_state([value[0] for value in params.values()], pooled=True)
        state = repeated(blank, len(peak))
        generators = [torch.Generator().manual_seed(1000 + seed) for seed in range(SEEDS)]
        curve: list[Tensor] = []
        for start in range(0, self.steps, CHUNK):
            length = min(CHUNK, self.steps - start)
            drawn = [task.batches(generator, length) for generator in generators]
            batches = stack_batches([batch for batch in drawn for _ in range(members)], dim=1)
            horizon = torch.full_like(peak, self.steps)
            lrs = learning_rates(peak, cosine, torch.full_like(peak, start), horizon, length)
            batches, lrs = tuple(part.to(self.device) for part in batches), lrs.to(self.device)
            params, state, losses, _ = unroll(
                self.step_functions[name], meta, params, state, batches, lrs, total_steps=self.steps
            )
            curve.append(meta_loss(task, losses, compression=self.compression))
        tail = torch.cat(curve)[-max(1, self.steps // 10) :].mean(0)
        return float(tail.reshape(SEEDS, members).mean(0).min())
