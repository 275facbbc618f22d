"""Tasks and families from configurations: what the modules of networks have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import torch

from tasks.base import Task, TaskFamily


class Configuration(Protocol):
    """What a task is built from; as a string it is the task's description."""

    def build(self, seed: int = 0, /, *, name: str = ...) -> Task:
        """Return the task under a name."""


def tasks_of(configurations: Mapping[str, Configuration]) -> dict[str, Callable[[int], Task]]:
    """Return builders of tasks under the names of their configurations."""
    return {name: partial(configuration.build, name=name) for name, configuration in configurations.items()}


def family_of(name: str, configuration: Configuration) -> TaskFamily:
    """Return the family of one task, the same at every draw."""
    return TaskFamily(name, str(configuration), partial(_build, configuration, name))


def _build(configuration: Configuration, name: str, _: torch.Generator) -> Task:
    return configuration.build(name=name)
