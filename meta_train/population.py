"""The inner problems of one task family: antithetic pairs in the middle of their episodes."""

from math import asinh

import torch
from torch import Tensor

from learned_opt.memory import Meta
from learned_opt.rule import State, UpdateRule
from meta_train.config import MetaTrainConfig
from meta_train.estimators import pes
from meta_train.flat import flatten, unflatten
from meta_train.unroll import learning_rates, paired_step, repeated, stack_batches, unroll
from tasks import get_family
from tasks.base import Batch, Params, Task, draw_seed, log_uniform

PopulationState = dict[str, Tensor | Params]


def meta_loss(task: Task, losses: Tensor, *, compression: float) -> Tensor:
    """What meta-training minimises, elementwise: ``asinh(L / c) / asinh(1 / c)``.

    ``L`` is the normalised loss. The result is 1 where it is 1 and 0 where it is 0, logarithmic far above the
    compression ``c`` and linear far below.
    """
    return torch.asinh(task.normalise(losses) / compression) / asinh(1 / compression)


class Population:
    """``P`` pairs of inner problems of one family, each pair at its own place in its own episode.

    A pair shares its task, starting weights, batches and learning rates; its two members differ in the sign
    of the noise on the meta-parameters. Episodes last a whole number of truncations, so that none ends inside
    one.

    Args:
        name: Of the family.
        config: Of the run.
        rule: The rule that is trained.
        like: Meta-parameters of the names and shapes in use.

    Attributes:
        diverged: Members with a loss that was not finite during the last truncation. Such a loss counts as the
            task's upper bound, and the other members do not notice.
    """

    diverged = 0

    def __init__(self, name: str, config: MetaTrainConfig, rule: UpdateRule, like: Meta) -> None:
        self.name, self.config, self.rule, self.like = name, config, rule, like
        self.family = get_family(name)
        self.generator = torch.Generator().manual_seed(
            config.seed + 1_000_003 * (1 + config.families.index(name))
        )
        pairs = config.pairs
        self.accumulated = torch.zeros(pairs, flatten(like).numel())
        self.step = torch.zeros(pairs)
        self.horizon = torch.zeros(pairs)
        self.peak = torch.ones(pairs)
        self.cosine = torch.zeros(pairs, dtype=torch.bool)
        self.seeds = torch.zeros(pairs, dtype=torch.int64)
        self.tasks: list[Task] = [self._begin_task(pair) for pair in range(pairs)]
        first = self.tasks[0].init(self.generator)
        self.params: Params = repeated(first, 2, pairs)
        self.blank: State = rule.init_state(list(first.values()), pooled=True)
        self.state: State = repeated(self.blank, 2, pairs)
        for pair in range(pairs):
            self._begin_episode(pair, stagger=True)
        self.advance_members = paired_step(rule, self.tasks[0], compiled=config.compiled)

    def _begin_task(self, pair: int) -> Task:
        self.seeds[pair] = draw_seed(self.generator)
        return self.family.sample(torch.Generator().manual_seed(int(self.seeds[pair])))

    def _begin_episode(self, pair: int, *, stagger: bool = False) -> None:
        config, generator = self.config, self.generator
        task = self.tasks[pair] = self._begin_task(pair)
        windows = max(1, round(log_uniform(*config.horizon, generator) / config.truncation))
        if stagger:
            windows = int(torch.randint(1, windows + 1, (), generator=generator))
        self.step[pair] = 0
        self.horizon[pair] = windows * config.truncation
        low, high = task.learning_rates
        slow, fast = (low * (high / low) ** share for share in config.learning_rate_range)
        self.peak[pair] = log_uniform(slow, fast, generator)
        self.cosine[pair] = bool(torch.rand((), generator=generator) < config.cosine_share)
        for key, value in task.init(generator).items():
            self.params[key][:, pair] = value
        for key, value in self.blank.items():
            self.state[key][:, pair] = value

    def _batches(self) -> Batch:
        drawn = [task.batches(self.generator, self.config.truncation) for task in self.tasks]
        return stack_batches(drawn, dim=1)

    def meta_gradient(self, theta: Tensor) -> tuple[Tensor, float]:
        """Advance every member by one truncation.

        Args:
            theta: Meta-parameters, ``[M]``.

        Returns:
            The estimate of the meta-gradient ``[M]`` and the mean meta-loss.
        """
        config = self.config
        fresh = self.step == 0
        noise = pes.draw(config.pairs, theta.numel(), sigma=config.sigma, generator=self.generator)
        self.accumulated = pes.accumulate(self.accumulated, noise, fresh)
        meta = unflatten(torch.stack([theta + noise, theta - noise]), self.like)
        lrs = learning_rates(self.peak, self.cosine, self.step, self.horizon, config.truncation)
        self.params, self.state, losses = unroll(
            self.advance_members, meta, self.params, self.state, self._batches(), lrs
        )
        self.diverged = int((~losses.isfinite()).any(0).sum())
        per_pair = [
            meta_loss(task, losses[:, :, pair], compression=config.compression)
            for pair, task in enumerate(self.tasks)
        ]
        mean = torch.stack(per_pair, dim=-1).mean(0)
        gradient = pes.estimate(self.accumulated, mean, sigma=config.sigma)
        self.step += config.truncation
        for pair in range(config.pairs):
            if self.step[pair] >= self.horizon[pair]:
                self._begin_episode(pair)
        return gradient, float(mean.mean())

    def state_dict(self) -> PopulationState:
        """Everything that the next truncation depends on."""
        return {
            "generator": self.generator.get_state(),
            "params": self.params,
            "state": self.state,
            **{name: getattr(self, name) for name in _TENSORS},
        }

    def load_state_dict(self, saved: PopulationState) -> None:
        """Continue where `state_dict` was taken."""
        generator, params, state = saved["generator"], saved["params"], saved["state"]
        assert isinstance(generator, Tensor)
        assert isinstance(params, dict)
        assert isinstance(state, dict)
        self.generator.set_state(generator)
        self.params, self.state = params, state
        for name in _TENSORS:
            setattr(self, name, saved[name])
        self.tasks = [self.family.sample(torch.Generator().manual_seed(int(seed))) for seed in self.seeds]


_TENSORS = ("accumulated", "step", "horizon", "peak", "cosine", "seeds")
