"""What a task is: a problem that an optimizer, learned or not, can be trained on and judged by.

A task is stateless: parameters, batches and losses go in and out as tensors, and all randomness comes from
the ``torch.Generator`` that the caller passes. So a *population* of tasks of one shape is advanced together
by stacking parameters and batches and mapping any one member's loss over them with ``torch.func.vmap``.

Generators live on the CPU, and what they draw does too, so that a seed means the same bits on every device.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LARGEST_SEED = 2**32 - 1
"""Of runs: torch's generator on the CPU takes seeds that agree in their last 32 bits for the same."""
HIGHER_IS_BETTER = frozenset({"accuracy"})
"""Metrics of which more is better where nothing else is said."""

Params = dict[str, Tensor]
Batch = tuple[Tensor, ...]
Split = Literal["train", "validation"]


class Task(ABC):
    """One instance of a problem, for example one Rastrigin function. Treat it as immutable.

    Attributes:
        name: Short name, for example ``digits-vit``.
        description: One line for people.
        default_steps: Number of optimizer steps after which it makes sense to compare optimizers.
        learning_rates: Lowest and highest learning rate at which Adam is plausible.
        metric: Key of ``evaluate``'s result that is the headline, such as ``"accuracy"`` or ``"loss"``.
        higher_is_better: Whether more of the metric is better; by default only for ``"accuracy"``.
    """

    def __init__(
        self,
        *,
        name: str,
        description: str,
        default_steps: int,
        learning_rates: tuple[float, float],
        metric: str = "loss",
        higher_is_better: bool | None = None,
    ) -> None:
        low, high = learning_rates
        if not 0 < low <= high:
            raise ValueError(f"learning_rates must be (low, high) with 0 < low <= high, got {learning_rates}")
        if default_steps < 1:
            raise ValueError(f"default_steps must be at least 1, got {default_steps}")
        self.name = name
        self.description = description
        self.default_steps = default_steps
        self.learning_rates = learning_rates
        self.metric = metric
        self.higher_is_better = metric in HIGHER_IS_BETTER if higher_is_better is None else higher_is_better

    @property
    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of what the task read from disk, by name, for records of runs; none by default."""
        return {}

    @abstractmethod
    def init(self, generator: torch.Generator) -> Params:
        """Draw initial parameters, float32, by their plain names."""

    @abstractmethod
    def batch(self, generator: torch.Generator, split: Split = "train") -> Batch:
        """Draw one batch: a flat tuple of tensors whose shapes never change."""

    def batches(self, generator: torch.Generator, count: int, split: Split = "train") -> Batch:
        """Draw ``count`` batches at once, stacked on a new leading axis.

        The result and the generator's state afterwards are those of ``count`` calls of ``batch``.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        drawn = [self.batch(generator, split) for _ in range(count)]
        return tuple(torch.stack(parts) for parts in zip(*drawn, strict=True))

    @abstractmethod
    def loss(self, params: Params, batch: Batch) -> Tensor:
        """Scalar loss: pure, differentiable, safe under ``torch.func`` transforms and ``torch.compile``.

        Whatever tells this instance from others of its family comes from ``batch``, never from ``self``.
        """

    @abstractmethod
    def normalise(self, loss: Tensor) -> Tensor:
        """Map losses, elementwise, to a bounded meta-loss: about 1 at the start, smaller is better, no units.

        NaN and infinities give the upper bound, and the gradient is finite everywhere.
        """

    @abstractmethod
    def evaluate(self, params: Params) -> dict[str, float]:
        """Measure parameters on the whole validation split: ``"loss"`` and what else the task knows."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


@dataclass(frozen=True)
class TaskFamily:
    """A distribution over tasks that share the shapes of their parameters and of their batches.

    Attributes:
        name: Short name, for example ``quadratic``.
        description: One line for people.
        sampler: Draws one task; a module-level function or a partial of one, so that the family can be
            pickled.
    """

    name: str
    description: str
    sampler: Callable[[torch.Generator], Task]

    def sample(self, generator: torch.Generator) -> Task:
        """Draw one task."""
        return self.sampler(generator)


@dataclass(frozen=True)
class ParametricFamily:
    """A distribution over configurations, for example over widths, depths and batch sizes.

    A configuration is a ``TaskFamily``: its tasks have one shape, and two configurations may differ in shape.

    Attributes:
        name: Short name, for example ``image_mlp``.
        description: One line for people.
        sizes: One short phrase for listings, for example ``dimension 2 to 1,000``.
        sampler: Draws one configuration; a module-level function or a partial of one, so that the family can
            be pickled.
    """

    name: str
    description: str
    sizes: str
    sampler: Callable[[torch.Generator], TaskFamily]

    def sample_family(self, generator: torch.Generator) -> TaskFamily:
        """Draw one configuration."""
        return self.sampler(generator)

    def sample(self, generator: torch.Generator) -> Task:
        """Draw a configuration and a task of it."""
        return self.sample_family(generator).sample(generator)


def require_seed(seed: int) -> None:
    """Refuse a seed that is none.

    Raises:
        ValueError: If it is not an integer from 0 to `LARGEST_SEED`.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed is {seed!r}; expected an integer from 0 to {LARGEST_SEED}")


def instance_generator(seed: int, purpose: str) -> torch.Generator:
    """Return the CPU generator that draws an instance.

    Its stream depends on seed and purpose alone and differs from ``torch.Generator().manual_seed(seed)``,
    from which a caller may draw starts: a start must not repeat the numbers of the function that it starts
    on.

    Raises:
        ValueError: If the seed is not an integer of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def draw_seed(generator: torch.Generator) -> int:
    """Draw a seed for another generator."""
    return int(torch.randint(2**62, (), generator=generator))


def log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    """Draw a number whose logarithm is uniform between those of ``low`` and ``high``."""
    return float(low * (high / low) ** torch.rand((), generator=generator, dtype=torch.float64).item())


def bounded(loss: Tensor, low: float, high: float) -> Tensor:
    """Clip losses to ``[low, high]``; NaN and both infinities become ``high``, with a zero gradient."""
    return torch.where(torch.isfinite(loss), loss, high).clamp(low, high)
