"""What enters the benchmark: an optimizer factory with its learning rates."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Need = Literal["loss", "steps", "graph"]


class OptimizerFactory(Protocol):
    """Builds an optimizer. It must be picklable, since cells run in other processes."""

    def __call__(self, params: Iterable[Any], /, *, lr: float) -> torch.optim.Optimizer:
        """Build the optimizer over ``(name, tensor)`` pairs, or over tensors if it refuses pairs.

        The planned number of steps comes as ``steps=`` if the entry's ``takes`` asks for it.
        """


class Population(Protocol):
    """Advances many runs in one call."""

    def step(self, grads: dict[str, Tensor], rates: Tensor, losses: Tensor) -> None:
        """Update the weights of all members in place, each as the optimizer alone would, to rounding.

        Args:
            grads: Gradient of each tensor, ``[P, ...]``.
            rates: Learning rate of each member, ``[P]``.
            losses: Loss of each member before the step, ``[P]``.
        """


class PopulationFactory(Protocol):
    """Begins runs that advance together. It must be picklable."""

    def __call__(self, params: dict[str, Tensor], /, *, steps: int) -> Population:
        """Begin runs over stacked weights.

        Args:
            params: Weights of all members, ``[P, ...]`` each; `Population.step` changes them.
            steps: Planned number of steps.
        """


@dataclass(frozen=True)
class Entry:
    """One contestant.

    Attributes:
        name: Unique short name, the key in every result.
        factory: Called as ``factory(named_parameters, lr=lr)``.
        default_lr: The learning rate a user would start with; it runs beside the sweep and is reported apart.
        learning_rates: The sweep among which the tuned setting is chosen; empty means the default alone.
        label: How tables and plots name it; the name if empty.
        kind: ``"learned"`` entries lead the report, ``"baseline"`` entries are what they are held against.
        identity: Says which optimizer this is, so that finished cells are reused only for the same one. Give
            a hash of the weights for anything loaded from a file, or of what a closure holds; derived from
            the factory's name, source and bound arguments if empty.
        takes: What the optimizer is given beyond gradients and learning rate, which results say: ``"loss"``,
            as ``step(loss=...)``; ``"steps"``, the planned number of them, as ``factory(..., steps=...)``;
            ``"graph"``, gradients that can be differentiated again.
        population: Advances the runs of one seed in one call, if the optimizer can; else each run has an
            optimizer of its own.
    """

    name: str
    factory: OptimizerFactory
    default_lr: float
    learning_rates: tuple[float, ...] = ()
    label: str = ""
    kind: Literal["baseline", "learned"] = "baseline"
    identity: str = ""
    takes: tuple[Need, ...] = ()
    population: PopulationFactory | None = None

    def __post_init__(self) -> None:
        require_name("an entry", self.name)
        for lr in (self.default_lr, *self.learning_rates):
            require_learning_rate(lr)
        object.__setattr__(
            self, "learning_rates", tuple(sorted(set(self.learning_rates or (self.default_lr,))))
        )
        object.__setattr__(self, "label", self.label or self.name)
        object.__setattr__(self, "identity", self.identity or _identity(self.factory))

    @property
    def fingerprint(self) -> str:
        """Hash of the identity, which itself may hold paths of this machine."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:16]

    def build(
        self, params: dict[str, Tensor], lr: float, *, steps: int | None = None
    ) -> torch.optim.Optimizer:
        """Build the optimizer over leaf tensors.

        Args:
            params: Leaf tensors that require gradients, by name.
            lr: Learning rate, in the optimizer's own units.
            steps: Planned number of steps; optimizers that do not take it are not told.

        Returns:
            The optimizer; it knows the names if its constructor takes ``(name, tensor)`` pairs.

        Raises:
            TypeError: If the factory returns something else than an optimizer.
            ValueError: If the optimizer takes the number of steps, and it is not given.
        """
        if "steps" in self.takes and steps is None:
            raise ValueError(f"{self.name} takes the number of steps; build(..., steps=...) is missing")
        factory: Callable[..., Any] = self.factory
        options = {"steps": steps} if "steps" in self.takes else {}
        try:
            optimizer = factory(list(params.items()), lr=lr, **options)
        except TypeError:
            optimizer = factory(list(params.values()), lr=lr, **options)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"{self.name}: the factory returned {type(optimizer).__name__}, not a torch.optim.Optimizer"
            )
        return optimizer


def log_grid(low: float = 1e-4, high: float = 1.0, count: int = 14) -> tuple[float, ...]:
    """Log-spaced learning rates, both ends included, to four digits.

    Args:
        low: First rate, above 0.
        high: Last rate, at least ``low``.
        count: How many, at least 2.

    Returns:
        ``count`` rates in rising order; 14 from 1e-4 to 1 by default, a factor 2.03 apart.

    Raises:
        ValueError: If the bounds or the count make no grid.
    """
    if not (0 < low < high < math.inf) or count < 2:
        raise ValueError(f"expected 0 < low < high and at least 2 rates, got {low}, {high}, {count}")
    ratio = math.log(high / low) / (count - 1)
    return tuple(float(f"{low * math.exp(ratio * k):.4g}") for k in range(count))


def centred_grid(centre: float) -> tuple[float, ...]:
    """The sweep that everyone gets: 14 rates over four decades around a centre; Adam's is 0.01."""
    return log_grid(centre / 100, centre * 100)


def require_name(whose: str, name: str) -> None:
    """Raise `ValueError` unless a name can be part of a file's."""
    if not name or any(character in name for character in "/\\\n"):
        raise ValueError(f"{whose}'s name must be non-empty and without slashes, got {name!r}")


def require_learning_rate(lr: float) -> None:
    """Raise `ValueError` unless a learning rate is finite and above 0."""
    if not (isinstance(lr, (int, float)) and 0 < lr < math.inf):
        raise ValueError(f"a learning rate must be finite and above 0, got {lr!r}")


def _identity(factory: Callable[..., Any]) -> str:
    """The factory's qualified name with its bound arguments, and a hash of a plain function's source."""
    if isinstance(factory, functools.partial):
        arguments = [*map(repr, factory.args), *(f"{k}={v!r}" for k, v in sorted(factory.keywords.items()))]
        return f"{_identity(factory.func)}({', '.join(arguments)})"
    name = f"{factory.__module__}.{getattr(factory, '__qualname__', type(factory).__qualname__)}"
    if not inspect.isfunction(factory):
        return name
    with contextlib.suppress(OSError):
        name += f" {hashlib.sha256(inspect.getsource(factory).encode()).hexdigest()[:16]}"
    return name
