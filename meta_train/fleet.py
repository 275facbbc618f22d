"""All units of a run, shared out over its processes, and the meta-gradient that they give together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learned_opt.memory import Meta
from learned_opt.rule import UpdateRule
from meta_train.config import MetaTrainConfig
from meta_train.estimators import EVOLUTION, Perturbation, combine, draw, shaped
from meta_train.flat import flatten
from meta_train.ranks import ProcessFailedError, Ranks
from meta_train.schedules import cosine, imitation_weight, longest_horizon
from meta_train.unit import REPORT, Moment, Unit
from meta_train.unroll import Expert, InnerStep
from tasks.base import instance_generator


class Estimate(NamedTuple):
    """What one window of all units gave; the same bits on every process, however many there are.

    Attributes:
        gradients: Of each family, ``[F, M]``.
        variances: Estimated variance of each element of them, ``[F, M]``; NaN where nothing tells.
        losses: Mean meta-loss of each family, ``[F]``.
        diverged: Members of each family with a loss that was not finite, ``[F]``.
        inner_steps: Taken by single members.
        stop: Whether a process wishes to stop.
        save: Whether one wishes to save.
    """

    gradients: Tensor
    variances: Tensor
    losses: Tensor
    diverged: Tensor
    inner_steps: int
    stop: bool
    save: bool


class Fleet:
    """The units, of which this process advances its own.

    Every process draws the noise of every unit, which takes the seed and the outer step alone; so what they
    exchange are a few numbers a pair. For backpropagation it is one meta-gradient a unit.

    Args:
        config: Of the run.
        rule: The rule that is trained.
        like: Meta-parameters of the names and shapes in use.
        ranks: The processes.
        expert: Whom to imitate.
        device: Where to compute.

    Raises:
        ValueError: If there are more processes than units.
    """

    def __init__(
        self,
        config: MetaTrainConfig,
        rule: UpdateRule,
        like: Meta,
        ranks: Ranks,
        *,
        expert: Expert | None = None,
        device: str = "cpu",
    ) -> None:
        config.check_processes(ranks.size)
        self.config, self.ranks, self.size = config, ranks, flatten(like).numel()
        self.units: dict[int, Unit] = {}
        steps: dict[str, InnerStep] = {}
        for index, family in enumerate(config.units):
            if ranks.owns(index):
                unit = Unit(
                    index, family, config, rule, like, step=steps.get(family), expert=expert, device=device
                )
                self.units[index], steps[family] = unit, unit.inner_step
        pairs = config.unit_size
        self.held = [Perturbation.none(pairs, self.size) for _ in config.units]
        self.over = torch.ones(len(config.units), pairs, dtype=torch.bool)

    def advance(self, theta: Tensor, step: int, *, stop: bool = False, save: bool = False) -> Estimate:
        """Advance every unit by one window.

        Args:
            theta: Meta-parameters, ``[M]``.
            step: Outer steps done.
            stop: Whether this process wishes to stop.
            save: Whether it wishes to save.

        Raises:
            ProcessFailedError: On every process, if one of several met a `ValueError` or an `OSError`.
            LostProcessError: If a process is gone.
        """
        config, wishes = self.config, torch.tensor([float(stop), float(save)])
        moment = Moment(
            longest_horizon(step, config.outer_steps, config.horizon, growth=config.horizon_growth),
            imitation_weight(step, weight=config.expert_weight, steps=config.expert_steps),
        )
        if config.estimator == "backprop":
            return self._backpropagate(theta, moment, wishes)
        return self._evolve(theta, step, moment, wishes)

    def _evolve(self, theta: Tensor, step: int, moment: Moment, wishes: Tensor) -> Estimate:
        config, estimator = self.config, EVOLUTION[self.config.estimator]
        sigma = config.sigma * cosine(step / config.outer_steps, end=config.sigma_end)
        draws = [self._draw(step, index, sigma) for index in range(len(self.held))]
        renewed = [estimator.episode(drawn, sigma) for drawn in draws]
        carried = [
            new.where(over, estimator.window(held, drawn, sigma))
            for new, over, held, drawn in zip(renewed, self.over, self.held, draws, strict=True)
        ]

        def report(index: int, unit: Unit) -> Tensor:
            return unit.evolve(theta, carried[index], renewed[index], moment).flatten()

        _, reports, granted = self._exchange(report, wishes)
        began = reports[..., REPORT.index("began")] > 0
        self.held = [new.where(born, old) for new, born, old in zip(renewed, began, carried, strict=True)]
        self.over = reports[..., REPORT.index("over")] > 0
        gradients, variances = [], []
        blocks = len(config.units) // len(config.families)
        for start in range(0, len(config.units), blocks):
            block = range(start, start + blocks)
            scores = [torch.cat([each[index].score for index in block]) for each in (carried, renewed)]
            differences = torch.cat([reports[index, :, :2] for index in block]).T
            if config.shaping:
                differences = shaped(differences)
            gradient, variance = combine(torch.stack(scores), differences)
            gradients.append(gradient)
            variances.append(variance)
        return Estimate(torch.stack(gradients), torch.stack(variances), *self._tallies(reports), *granted)

    def _backpropagate(self, theta: Tensor, moment: Moment, wishes: Tensor) -> Estimate:
        def row(_: int, unit: Unit) -> Tensor:
            gradient, report = unit.backpropagate(theta, moment)
            return torch.cat([gradient, report.flatten()])

        rows, reports, granted = self._exchange(row, wishes, front=self.size)
        gradients = self._by_family(rows)
        mean = gradients.mean(1)
        count = gradients.shape[1]
        variances = gradients.var(1) / count if count > 1 else torch.full_like(mean, torch.nan)
        return Estimate(mean, variances, *self._tallies(reports), *granted)

    def _exchange(
        self, work: Callable[[int, Unit], Tensor], wishes: Tensor, *, front: int = 0
    ) -> tuple[Tensor, Tensor, list[bool]]:
        """Every unit's row: what stands before its report, and the report; and what any process wishes."""
        widths = [front, self.config.unit_size * len(REPORT), len(wishes)]
        own, met = self._own_rows(work, wishes, sum(widths))
        rows = torch.stack(self.ranks.rows(own, len(self.config.units)))
        first, reports, wished = rows.split_with_sizes(widths, dim=1)
        if bool(wished.isnan().any()):
            raise ProcessFailedError(self.ranks.first_error(met)) from met
        return first, reports.reshape(len(rows), -1, len(REPORT)), wished.any(0).tolist()

    def _own_rows(
        self, work: Callable[[int, Unit], Tensor], wishes: Tensor, width: int
    ) -> tuple[list[Tensor], Exception | None]:
        """This process's rows; of NaN, for the others to see, if it is one of several and met an error."""
        try:
            return [torch.cat([work(index, unit), wishes]) for index, unit in self.units.items()], None
        except (ValueError, OSError) as error:
            if self.ranks.size == 1:
                raise
            return [torch.full((width,), torch.nan) for _ in self.units], error

    def _by_family(self, rows: Tensor) -> Tensor:
        return rows.reshape(len(self.config.families), -1, *rows.shape[1:])

    def _tallies(self, reports: Tensor) -> tuple[Tensor, Tensor, int]:
        """Mean meta-loss and diverged members of each family, and inner steps."""
        columns = self._by_family(reports).flatten(1, 2)
        loss = columns[..., REPORT.index("loss")].mean(1)
        diverged = columns[..., REPORT.index("diverged")].sum(1)
        signs = 1 if self.config.estimator == "backprop" else 2
        return loss, diverged, signs * int(reports[..., REPORT.index("steps")].sum(dtype=torch.float64))

    def _draw(self, step: int, index: int, sigma: float) -> Tensor:
        generator = instance_generator(self.config.seed, f"noise of unit {index} at {step}")
        return draw(self.config.unit_size, self.size, sigma=sigma, generator=generator)

    def state_dict(self) -> dict[str, Any]:
        """What every process knows of the units."""
        noise, score = ([getattr(each, name) for each in self.held] for name in ("noise", "score"))
        return {"noise": noise, "score": score, "over": self.over}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.held = [Perturbation(*each) for each in zip(saved["noise"], saved["score"], strict=True)]
        self.over = saved["over"]
