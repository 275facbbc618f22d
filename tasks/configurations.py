"""Tasks and families from configurations: what the modules of networks have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

from tasks.base import Task, TaskFamily

Drawn = TypeVar("Drawn")


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


def never_judged(
    draw: Callable[[torch.Generator], Drawn],
    about: Callable[[Drawn], Any],
    judges: Iterable[Drawn],
    generator: torch.Generator,
) -> Drawn:
    """Draw a configuration that no judge is like, so that meta-training never meets a judge.

    Args:
        draw: Draws a configuration.
        about: What of a configuration makes two of them alike, for example the images.
        judges: Configurations of the tasks that judge optimizers.
        generator: Passed to ``draw``, again for as long as a judge is like what came out.
    """
    judged = {about(judge) for judge in judges}
    drawn = draw(generator)
    while about(drawn) in judged:
        drawn = draw(generator)
    return drawn


def _build(configuration: Configuration, name: str, _: torch.Generator) -> Task:
    return configuration.build(name=name)
