"""Meta-validation: the rule against tuned Adam on tasks that it is not trained on."""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from learned_opt.memory import Meta
from learned_opt.rule import UpdateRule
from meta_train.population import meta_loss
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

    Adam is the same rule at its initial meta-parameters, tuned in the same way.

    Args:
        names: Tasks.
        rule: The rule.
        adam: Its initial meta-parameters.
        steps: Length of an episode.
        compression: Of the meta-loss.
        compiled: Compile the inner step.
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
    ) -> None:
        self.rule, self.steps, self.compression = rule, steps, compression
        self.tasks = {name: get_task(name) for name in names}
        self.step_functions: dict[str, InnerStep] = {
            name: shared_step(rule, task, compiled=compiled) for name, task in self.tasks.items()
        }
        self.adam = {name: self._final(name, adam) for name in names}

    def __call__(self, meta: Meta) -> Validation:
        """Validate meta-parameters."""
        final = {name: self._final(name, meta) for name in self.tasks}
        ratios = [log((final[name] + FLOOR) / (self.adam[name] + FLOOR)) for name in self.tasks]
        return Validation(final, sum(ratios) / len(ratios))

    def _final(self, name: str, meta: Meta) -> float:
        task = self.tasks[name]
        low, high = task.learning_rates
        grid = torch.logspace(log(low), log(high), LEARNING_RATES, base=torch.e)
        peak = grid.repeat_interleave(2).repeat(SEEDS)
        cosine = torch.tensor([False, True]).repeat(LEARNING_RATES * SEEDS)
        members = 2 * LEARNING_RATES
        starts = [task.init(torch.Generator().manual_seed(seed)) for seed in range(SEEDS)]
        params = stack_params([start for start in starts for _ in range(members)])
        blank = self.rule.init_state(list(starts[0].values()), pooled=True)
        state = repeated(blank, len(peak))
        generators = [torch.Generator().manual_seed(1000 + seed) for seed in range(SEEDS)]
        curve: list[Tensor] = []
        for start in range(0, self.steps, CHUNK):
            length = min(CHUNK, self.steps - start)
            drawn = [task.batches(generator, length) for generator in generators]
            batches = stack_batches([batch for batch in drawn for _ in range(members)], dim=1)
            horizon = torch.full_like(peak, self.steps)
            lrs = learning_rates(peak, cosine, torch.full_like(peak, start), horizon, length)
            params, state, losses = unroll(self.step_functions[name], meta, params, state, batches, lrs)
            curve.append(meta_loss(task, losses, compression=self.compression))
        tail = torch.cat(curve)[-max(1, self.steps // 10) :].mean(0)
        return float(tail.reshape(SEEDS, members).mean(0).min())
