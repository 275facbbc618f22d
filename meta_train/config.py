"""Everything that decides a meta-training run."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from learned_opt.rule import RuleConfig
from tasks import JUDGES, require_trainable, task_names
from tasks.registry import choose


@dataclass(frozen=True)
class MetaTrainConfig:
    """Configuration of a run.

    Args:
        rule: Architecture of the update rule.
        families: Task families to train on, by name; all weigh the same.
        outer_steps: Updates of the meta-parameters.
        pairs: Antithetic pairs of perturbed rules for each family.
        truncation: Inner steps between meta-gradients.
        horizon: Shortest and longest episode in inner steps; drawn log-uniformly, in whole truncations.
        learning_rate_range: Part of a task's plausible learning rates, on a logarithmic scale from 0 to 1,
            that an episode's is drawn from.
        sigma: Standard deviation of the perturbations of the meta-parameters.
        learning_rate: Peak of the outer AdamW, which warms up over 2 % of the run and ends along a cosine.
        clip: Largest norm of the meta-gradient, whose families have norm about 1 each.
        cosine_share: Share of episodes whose inner learning rate falls along a cosine; in the rest it is
            constant.
        compression: ``c`` in the meta-loss ``asinh(L / c) / asinh(1 / c)`` of a normalised loss ``L``: the
            smaller, the more the end of an episode counts.
        validation: Tasks, never trained on, that decide which meta-parameters are kept.
        validation_every: Outer steps between validations.
        validation_steps: Inner steps of a validation episode.
        compiled: Compile the inner step with `torch.compile`.
        checkpoint_seconds: Time between checkpoints.
        seed: Of all randomness.

    Raises:
        ValueError: If a value cannot work; it is named with what was expected.
    """

    rule: RuleConfig = field(default_factory=RuleConfig)
    families: tuple[str, ...] = ("digits-mlp-32",)
    outer_steps: int = 100
    pairs: int = 8
    truncation: int = 20
    horizon: tuple[int, int] = (60, 600)
    learning_rate_range: tuple[float, float] = (0.25, 0.75)
    sigma: float = 0.01
    learning_rate: float = 1e-3
    clip: float = 5.0
    cosine_share: float = 0.5
    compression: float = 0.1
    validation: tuple[str, ...] = ("digits-conv", "digits-mlp-norm")
    validation_every: int = 100
    validation_steps: int = 400
    compiled: bool = True
    checkpoint_seconds: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.families or not self.validation:
            raise ValueError("families and validation must name at least one task family and one task")
        for family in self.families:
            require_trainable(family)
        for task in self.validation:
            choose("task", task, dict.fromkeys(task_names()))
            if task in JUDGES:
                raise ValueError(f"{task!r} judges optimizers and can decide nothing about one before")
        both = set(self.families) & set(self.validation)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} would be both trained on and validated on")
        for name in ("outer_steps", "pairs", "truncation", "validation_every", "validation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("sigma", "learning_rate", "clip", "compression", "checkpoint_seconds"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; expected a finite number above 0")
        low, high = self.horizon
        if not self.truncation <= low <= high:
            raise ValueError(
                f"horizon is {low}..{high}; expected truncation {self.truncation} <= shortest <= longest"
            )
        slow, fast = self.learning_rate_range
        if not 0.0 <= slow <= fast <= 1.0:
            raise ValueError(f"learning_rate_range is {slow}..{fast}; expected 0 <= lowest <= highest <= 1")
        if not 0.0 <= self.cosine_share <= 1.0:
            raise ValueError(f"cosine_share is {self.cosine_share}; expected 0 to 1")

    def as_json(self) -> dict[str, Any]:
        """The configuration in JSON's types, the memory with its kind."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
