"""The memory shoot-out: one rule, one budget, several memories of the same size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from learned_opt import RuleConfig, UpdateRule, load_checkpoint
from learned_opt.memory import (
    FLTConfig,
    FLTV1Config,
    LSTMConfig,
    MemoryConfig,
    MomentsConfig,
    PerformerConfig,
    S4DConfig,
)
from meta_train.config import MetaTrainConfig
from meta_train.presets import PRESETS
from meta_train.state import has_state
from tasks.registry import choose

CONTENDERS: dict[str, MemoryConfig] = {
    "flt": FLTConfig(),
    "flt-spectrum": FLTConfig(reading="spectrum"),
    "flt-v1": FLTV1Config(),
    "performer": PerformerConfig(),
    "s4d": S4DConfig(),
    "lstm": LSTMConfig(),
    "moments": MomentsConfig(mixed_betas=(0.5, 0.97, 0.997, 0.9997)),
}
"""Eight floats a parameter and three averages each, so that all have the same head."""

LABELS = {
    "flt": "FLT, exact spectrum (V2)",
    "flt-spectrum": "FLT, first head of the whole spectrum",
    "flt-v1": "FLT of the paper (V1)",
    "performer": "FLT without positions",
    "s4d": "S4D",
    "lstm": "LSTM",
    "moments": "moments",
}

SHOOTOUTS: dict[str, MetaTrainConfig] = {
    "micro": MetaTrainConfig(
        families=("quadratic-noisy",),
        outer_steps=2,
        pairs=2,
        truncation=5,
        horizon=(10, 20),
        validation=("rosenbrock-2",),
        validation_every=2,
        validation_steps=10,
        compiled=False,
    ),
    "tiny": MetaTrainConfig(
        families=("digits-mlp-32", "rastrigin-lois"),
        outer_steps=300,
        horizon=(40, 400),
        learning_rate=3e-3,
        validation=("digits-mlp-norm", "rastrigin-rotated-10"),
        validation_every=100,
        validation_steps=200,
        checkpoint_seconds=60.0,
    ),
    "small": replace(PRESETS["small"], validation=("digits-conv", "digits-mlp-norm", "rastrigin-rotated-10")),
}
"""What a shoot-out meta-trains each memory with, by name; the memory and the seed take their own values."""

INCIDENTAL = ("compiled", "checkpoint_seconds")
"""Settings in which a run may differ from what was asked for and still be the same run."""
APART = (*INCIDENTAL, "rule")
"""Settings that are not compared as they were recorded; the rule is compared as it is loaded."""


@dataclass(frozen=True)
class MetaRun:
    """One memory, meta-trained with one seed.

    Attributes:
        memory: Key of `CONTENDERS`.
        seed: Meta-seed.
        config: Of the meta-training.
        folder: Where it is.
    """

    memory: str
    seed: int
    config: MetaTrainConfig
    folder: Path

    @property
    def name(self) -> str:
        """Unique in a shoot-out, and the name of the folder."""
        return f"{self.memory}-{self.seed}"

    def finished(self) -> bool:
        """Whether the folder holds this run, done.

        Raises:
            ValueError: If it holds another one.
            CheckpointError: If what it holds cannot be read.
        """
        if not has_state(self.folder):
            return False
        checkpoint = load_checkpoint(self.folder)
        wanted, found = self.config.as_json(), checkpoint.facts.get("meta_training")
        if not isinstance(found, dict):
            raise ValueError(f"{self.folder} does not say how it was meta-trained")
        known = MetaTrainConfig().as_json() | found  # a setting that came later had its default then
        differing = [name for name in wanted if name not in APART and known[name] != wanted[name]]
        if checkpoint.config != self.config.rule:
            differing.append("rule")
        if differing:
            raise ValueError(
                f"{self.folder} is of another shoot-out: {', '.join(differing)} differs; "
                "choose another folder"
            )
        return checkpoint.facts.get("outer_steps") == self.config.outer_steps


def plan(preset: str, memories: Sequence[str], meta_seeds: Sequence[int], out: Path) -> list[MetaRun]:
    """Every run of a shoot-out, seeds outermost, so that a stopped one is a smaller one.

    Args:
        preset: Key of `SHOOTOUTS`.
        memories: Keys of `CONTENDERS`.
        meta_seeds: Distinct seeds.
        out: Folder of the shoot-out.

    Raises:
        ValueError: If a name is unknown, or a list is empty or has duplicates.
    """
    base = choose("shoot-out", preset, SHOOTOUTS)
    for name, chosen in (("memories", memories), ("meta-seeds", meta_seeds)):
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"{name} are {', '.join(map(str, chosen))}; expected at least one, each once")
    for memory in memories:
        choose("memory", memory, CONTENDERS)
    return [
        MetaRun(memory, seed, contender(base, memory, seed), out / "meta-train" / f"{memory}-{seed}")
        for seed in meta_seeds
        for memory in memories
    ]


def contender(base: MetaTrainConfig, memory: str, seed: int) -> MetaTrainConfig:
    """A preset with another memory and another seed."""
    return replace(base, rule=replace(base.rule, memory=CONTENDERS[memory]), seed=seed)


def sizes(memory: str) -> tuple[int, int]:
    """Floats a parameter, and meta-parameters in all, of a contender."""
    rule = UpdateRule(RuleConfig(memory=CONTENDERS[memory]))
    return rule.floats_per_parameter, sum(tensor.numel() for tensor in rule.init_meta().values())
