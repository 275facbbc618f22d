"""Optimizers by name: learned ones that ship or lie in a folder, as factories and benchmark entries."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from learned_opt import Checkpoint, LearnedOptimizer, UpdateRule, load_checkpoint, shipped_names
from learned_opt.names import unknown_name
from meta_train.populations import LearnedPopulationFactory
from tasks.benchmark import BASELINES, Entry, get_entry, log_grid
from tasks.benchmark.contestants.baselines import is_entry_name
from tasks.registry import UnknownNameError

ENDINGS = {"-orthogonal": True, "-plain": False}
"""What a learned optimizer's name may end with: directions of matrices are made orthogonal, or are not."""
ALIASES = {"flt": "flt-base"}


@dataclass(frozen=True)
class LearnedFactory:
    """Builds a learned optimizer; it can be sent to another process.

    Args:
        checkpoint: The rule.
        weight_decay: Decoupled weight decay where none is asked for.
    """

    checkpoint: Checkpoint
    weight_decay: float = 0.0

    def __call__(
        self, params: Iterable[Any], /, *, lr: float | None = None, steps: int | None = None, **options: Any
    ) -> LearnedOptimizer:
        """An optimizer over tensors, ``(name, tensor)`` pairs or groups, told the steps if need be."""
        rule = UpdateRule(self.checkpoint.config)
        if rule.config.progress:
            options["total_steps"] = steps
        options.setdefault("weight_decay", self.weight_decay)
        return LearnedOptimizer(params, lr, rule=rule, meta=self.checkpoint.meta, **options)


def learned_names() -> list[str]:
    """Names of learned optimizers, beside folders; each may have one of `ENDINGS`, as folders may."""
    return [*ALIASES, *shipped_names()]


def is_learned(name: str) -> bool:
    """Whether a name means a learned optimizer: one of `learned_names`, or a path.

    Another optimizer's name means that one, whatever lies in the working directory; ``./soap`` is a path.
    """
    weights = _weights(name)
    if weights in learned_names() or os.sep in weights:
        return True
    return Path(weights).exists() and not is_entry_name(name)


def load_learned(name: str, others: Iterable[str] = ()) -> Checkpoint:
    """Load a learned optimizer.

    Args:
        name: One of `learned_names`, or the folder of a saved one; with one of `ENDINGS`, the variant.
        others: Names that would also have done, for the message.

    Raises:
        UnknownNameError: If it is neither; the message lists names and the closest.
        CheckpointError: If it is not there or cannot be used.
    """
    if not is_learned(name) and not Path(_weights(name)).exists():
        message = unknown_name("optimizer", name, [*others, *learned_names()])
        raise UnknownNameError(f"{message}; the folder of a saved optimizer will do too")
    weights = _weights(name)
    known = ALIASES.get(weights, weights)
    found = load_checkpoint(known if known in shipped_names() else Path(known))
    if weights == name:
        return found
    return replace(found, config=replace(found.config, orthogonal=ENDINGS[name.removeprefix(weights)]))


def entries(names: Sequence[str], weight_decay: float = 0.0) -> list[Entry]:
    """Benchmark entries by name.

    Args:
        names: Whatever `tasks.benchmark.get_entry` and `load_learned` take. Folders go by their last part,
            numbered where that is taken.
        weight_decay: Decoupled weight decay of the learned ones.

    Raises:
        UnknownNameError: If a name is none of these; the message says the closest.
        ValueError: If an optimizer cannot be built.
        CheckpointError: As `load_learned`.
    """
    found: dict[str, Entry] = {}
    for name in names:
        entry = _entry(name, weight_decay, taken=found)
        if entry.name in found and found[entry.name].identity != entry.identity:
            entry = replace(entry, name=_unique(entry.name, found))
        found[entry.name] = entry
    return list(found.values())


def _entry(name: str, weight_decay: float, *, taken: dict[str, Entry]) -> Entry:
    if name in BASELINES or ":" in name:
        return get_entry(name)
    if not is_learned(name):
        return get_entry(name, others=(*learned_names(), "the folder of a saved optimizer"))
    checkpoint, weights = load_learned(name), _weights(name)
    if weights not in learned_names():
        name = _unique(Path(name).resolve().name, taken)
        return learned_entry(name, checkpoint, weight_decay=weight_decay)
    label = weights.upper() if weights in ALIASES else weights
    label += name.removeprefix(weights).replace("-", ", ")
    return learned_entry(name, checkpoint, label, weight_decay)


def learned_entry(name: str, checkpoint: Checkpoint, label: str = "", weight_decay: float = 0.0) -> Entry:
    """A learned optimizer in the benchmark, at its default learning rate and over Adam's sweep."""
    label, decay = label or name, ""
    if weight_decay:
        label, decay = f"{label}, decay {weight_decay:g}", f" weight_decay={weight_decay}"
    return Entry(
        name,
        LearnedFactory(checkpoint, weight_decay),
        checkpoint.config.default_lr,
        log_grid(),
        label=label,
        kind="learned",
        identity=f"learned-opt {fingerprint(checkpoint)}{decay}",
        takes=("steps",) if checkpoint.config.progress else (),
        population=LearnedPopulationFactory(checkpoint, weight_decay),
    )


def fingerprint(checkpoint: Checkpoint) -> str:
    """Digest of architecture and weights."""
    digest = sha256(repr(checkpoint.config).encode())
    for option in fields(checkpoint.config):  # what is left out of the representation came later
        value = getattr(checkpoint.config, option.name)
        if not option.repr and value != option.default:
            digest.update(f"{option.name}={value}".encode())
    for name, tensor in sorted(checkpoint.meta.items()):
        digest.update(name.encode() + tensor.double().numpy().tobytes())
    return digest.hexdigest()


def _weights(name: str) -> str:
    """The name without its ending, unless that is part of a folder's name."""
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), "")
    return name if Path(name).exists() else name.removesuffix(ending)


def _unique(name: str, taken: dict[str, Entry]) -> str:
    candidates = (name, *(f"{name}-{count}" for count in range(2, len(taken) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)
