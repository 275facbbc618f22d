"""Everything that decides a meta-training run."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Literal

from learned_opt.architecture import RuleConfig
from learned_opt.serial import facts_to_json
from meta_train.estimators import ESTIMATORS
from meta_train.objective import LossScale, Objective
from tasks import JUDGES, folder_family_names, require_trainable, task_names
from tasks.base import require_seed
from tasks.registry import choose


@dataclass(frozen=True)
class MetaTrainConfig:
    """Configuration of a run.

    Args:
        rule: Architecture of the update rule.
        start: A learned optimizer of that architecture to begin from, by name or folder; Adam if empty.
        families: Task families to train on, by name.
        data: Folder of images, one subfolder a class, for families that need one; unused if empty.
        family_weights: How much each counts; all the same if empty.
        outer_steps: Updates of the meta-parameters.
        pairs: Antithetic pairs of perturbed rules for each family.
        unit_pairs: Pairs that are advanced together as one unit of work, which a process takes whole; 0 for
            all of a family. Results depend on it, though not on how many processes share the units.
        estimator: Of the meta-gradient: pes, nres (one noise an episode), es (truncated, biased), full-es
            (windows are whole episodes) or backprop (truncated, biased, no perturbation).
        first_order: For backprop: take task gradients as constants.
        shaping: Rank the loss differences of a family's pairs in place of taking their sizes.
        truncation: Inner steps between meta-gradients.
        horizon: Shortest and longest episode in inner steps; drawn log-uniformly.
        horizon_growth: Share of the run in which the longest episode grows from the shortest; 0 for none.
        learning_rate_range: Part of a task's plausible learning rates, on a logarithmic scale from 0 to 1,
            that an episode's is drawn from.
        sigma: Standard deviation of the perturbations of the meta-parameters.
        sigma_end: What it is multiplied with at the end of the run, reached along a cosine.
        learning_rate: Peak of the outer AdamW, which warms up over 2 % of the run and ends along a cosine.
        clip: Largest norm of the meta-gradient, whose families have norm about 1 each.
        cosine_share: Share of episodes whose inner learning rate falls along a cosine; in the rest it is
            constant.
        objective: The mean over an episode's losses, or the final ones.
        final_share: Part of an episode, at its end, whose losses are final; it is one step at least.
        loss_scale: asinh, or log-ratio: ``log((L_t + c) / (L_0 + c))``.
        loss_split: Batches on which the meta-loss is taken: those trained on, or validation batches.
        compression: ``c`` in the meta-loss ``asinh(L / c) / asinh(1 / c)`` of a normalised loss ``L``: the
            smaller, the more the end of an episode counts.
        expert: A learned optimizer to imitate at first, by name or folder; none if empty.
        expert_weight: Weight of the imitation beside the meta-loss, at the start.
        expert_steps: Outer steps in which it falls to nothing.
        validation: Tasks, never trained on, on which meta-parameters are scored.
        keep: Which meta-parameters the run's optimizer has: the best by validation so far, or the last.
        validation_every: Outer steps between validations.
        validation_steps: Inner steps of a validation episode.
        compiled: Compile the inner step with `torch.compile`.
        checkpoint_seconds: Time between checkpoints.
        seed: Of all randomness, below 2^32.

    Raises:
        ValueError: If a value cannot work; it is named with what was expected.
    """

    rule: RuleConfig = field(default_factory=RuleConfig)
    start: str = ""
    families: tuple[str, ...] = ("digits-mlp-32",)
    data: str = ""
    family_weights: tuple[float, ...] = ()
    outer_steps: int = 100
    pairs: int = 8
    unit_pairs: int = 0
    estimator: Literal["pes", "nres", "es", "full-es", "backprop"] = "pes"
    first_order: bool = True
    shaping: bool = False
    truncation: int = 20
    horizon: tuple[int, int] = (60, 600)
    horizon_growth: float = 0.0
    learning_rate_range: tuple[float, float] = (0.25, 0.75)
    sigma: float = 0.01
    sigma_end: float = 1.0
    learning_rate: float = 1e-3
    clip: float = 5.0
    cosine_share: float = 0.5
    objective: Objective = "mean"
    final_share: float = 0.1
    loss_scale: LossScale = "asinh"
    loss_split: Literal["train", "validation"] = "train"
    compression: float = 0.1
    expert: str = ""
    expert_weight: float = 1.0
    expert_steps: int = 0
    validation: tuple[str, ...] = ("digits-conv", "digits-mlp-norm")
    keep: Literal["best", "last"] = "best"
    validation_every: int = 100
    validation_steps: int = 400
    compiled: bool = True
    checkpoint_seconds: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed(self.seed)
        self._check_tasks()
        self._check_numbers()
        if self.pairs % self.unit_size:
            raise ValueError(f"pairs is {self.pairs}; expected a multiple of unit_pairs, {self.unit_pairs}")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator is {self.estimator!r}; expected one of {', '.join(ESTIMATORS)}")
        if self.keep not in ("best", "last"):
            raise ValueError(f"keep is {self.keep!r}; expected best or last")
        if self.estimator == "backprop" and self.shaping:
            raise ValueError("shaping is True; estimator backprop has no differences to rank")
        low, high = self.horizon
        if not self.truncation <= low <= high:
            raise ValueError(
                f"horizon is {low}..{high}; expected truncation {self.truncation} <= shortest <= longest"
            )
        slow, fast = self.learning_rate_range
        if not 0.0 <= slow <= fast <= 1.0:
            raise ValueError(f"learning_rate_range is {slow}..{fast}; expected 0 <= lowest <= highest <= 1")
        if self.expert and self.expert_steps < 1:
            raise ValueError(f"expert_steps is {self.expert_steps}; expected at least 1 with an expert")

    def _check_tasks(self) -> None:
        if not self.families or not self.validation:
            raise ValueError("families and validation must name at least one task family and one task")
        for family in self.families:
            require_trainable(family)
        if self.data and not self.reads_folder:
            raise ValueError(f"data is {self.data!r}; expected none, as no family reads a folder of images")
        for name in ("families", "validation"):
            named = getattr(self, name)
            if len(set(named)) < len(named):
                raise ValueError(f"{name} is {', '.join(named)}; expected each once")
        if self.family_weights and len(self.family_weights) != len(self.families):
            raise ValueError(
                f"{len(self.family_weights)} family_weights for {len(self.families)} families; "
                "expected as many"
            )
        if any(not (isfinite(weight) and weight > 0) for weight in self.family_weights):
            raise ValueError(f"family_weights are {self.family_weights}; expected finite numbers above 0")
        for task in self.validation:
            choose("task", task, dict.fromkeys(task_names()))
            if task in JUDGES:
                raise ValueError(f"{task!r} judges optimizers and can decide nothing about one before")
        both = set(self.families) & set(self.validation)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} would be both trained on and validated on")

    def _check_numbers(self) -> None:
        for name in ("outer_steps", "pairs", "truncation", "validation_every", "validation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("unit_pairs", "expert_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")
        for name in ("sigma", "sigma_end", "learning_rate", "clip", "compression", "checkpoint_seconds"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; expected a finite number above 0")
        for name in ("cosine_share", "horizon_growth", "final_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        if not (isfinite(self.expert_weight) and self.expert_weight >= 0):
            raise ValueError(f"expert_weight is {self.expert_weight}; expected a finite number of at least 0")

    @property
    def reads_folder(self) -> bool:
        """Whether a family needs the folder ``data``."""
        return not set(self.families).isdisjoint(folder_family_names())

    @property
    def unit_size(self) -> int:
        """Pairs of a unit."""
        return self.unit_pairs or self.pairs

    @property
    def units(self) -> list[str]:
        """The family of each unit of work, in order."""
        blocks = self.pairs // self.unit_size
        return [family for family in self.families for _ in range(blocks)]

    def check_processes(self, count: int) -> None:
        """Refuse more processes than there are units of work.

        Raises:
            ValueError: It names both numbers.
        """
        if count > len(self.units):
            raise ValueError(
                f"{count} processes for {len(self.units)} units of {self.unit_size} pairs; "
                "expected at most as many: set unit_pairs lower, or start fewer processes"
            )

    @property
    def weights(self) -> tuple[float, ...]:
        """How much each family counts, with mean 1."""
        total = sum(self.family_weights)
        if not self.family_weights:
            return (1.0,) * len(self.families)
        return tuple(weight * len(self.families) / total for weight in self.family_weights)

    def as_json(self) -> dict[str, Any]:
        """The configuration in JSON's types; of the memory its options, not its kind."""
        return facts_to_json(asdict(self))
