"""Every task and family by name, and the line between those that judge and those that train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path

from tasks import (
    autoencoder,
    folder_families,
    image_conv,
    image_mlp,
    landscapes,
    language,
    logistic,
    quadratic,
    rastrigin,
    recurrent,
    teacher,
    vit,
)
from tasks.augment import reparametrised
from tasks.base import ParametricFamily, Task, TaskFamily, instance_generator
from tasks.folder_families import FolderFamily
from tasks.registry import choose

GROUPS = {
    "functions": (rastrigin, landscapes, quadratic, logistic),
    "perceptrons": (image_mlp, teacher),
    "convolutions": (image_conv,),
    "Vision Transformers": (vit,),
    "autoencoders": (autoencoder,),
    "recurrent networks": (recurrent,),
    "language models": (language,),
}
"""The modules of each kind of task, in the order in which people are shown them."""

_MODULES = tuple(module for group in GROUPS.values() for module in group)

TASKS: dict[str, Callable[[int], Task]] = {
    name: build for module in _MODULES for name, build in module.TASKS.items()
}
FAMILIES: dict[str, TaskFamily] = {
    family.name: reparametrised(family) for module in _MODULES for family in getattr(module, "FAMILIES", ())
} | {family.name: family for module in _MODULES for family in getattr(module, "UNSCALED_FAMILIES", ())}
PARAMETRIC: dict[str, ParametricFamily] = {
    family.name: family for module in _MODULES for family in getattr(module, "PARAMETRIC", ())
}
FOLDER_FAMILIES: dict[str, FolderFamily] = {family.name: family for family in folder_families.FAMILIES}
FUNCTIONS: dict[str, Callable[[int, int], Task]] = {
    **landscapes.FUNCTIONS,
    **quadratic.FUNCTIONS,
    **rastrigin.FUNCTIONS,
}
JUDGES = frozenset(name for module in _MODULES for name in getattr(module, "JUDGES", ()))
"""The tasks that judge optimizers; every module's samplers draw past its own."""


def task_names() -> list[str]:
    """Return the names that ``get_task`` accepts."""
    return sorted(TASKS)


def family_names() -> list[str]:
    """Return the names that ``get_family`` accepts."""
    return sorted(FAMILIES)


def get_task(name: str, seed: int = 0) -> Task:
    """Return a task by name.

    Args:
        name: One of ``task_names()``.
        seed: Picks the instance where the task has many, and does nothing else.

    Raises:
        UnknownNameError: If there is no such task.
        MissingDatasetError: If its dataset is not installed.
    """
    return choose("task", name, TASKS)(seed)


def get_family(name: str, *, folder: str | PathLike[str] | None = None) -> TaskFamily:
    """Return a family to meta-train on by name; most families' tasks are reparametrised at random.

    Args:
        name: One of ``family_names()``, or one configuration of a parametric family: ``image_mlp@7`` is what
            ``get_parametric("image_mlp")`` draws from seed 7; or one of ``folder_family_names()``.
        folder: Of images, for the last; the others leave it alone.

    Raises:
        UnknownNameError: If there is no such family.
        ValueError: If what follows the ``@`` is not an integer of at least 0, or the family needs a folder.
        DatasetError: If the folder cannot be used.
    """
    parametric, separator, seed = name.partition("@")
    if not separator:
        families: dict[str, TaskFamily | FolderFamily] = {**FAMILIES, **FOLDER_FAMILIES}
        family = choose("task family", name, families)
        return family if isinstance(family, TaskFamily) else reparametrised(_read(family, folder))
    if not seed.isdecimal():
        raise ValueError(f"a configuration is named FAMILY@SEED, for example image_mlp@7, got {name!r}")
    drawn = get_parametric(parametric).sample_family(instance_generator(int(seed), parametric))
    return reparametrised(replace(drawn, name=name))


def _read(family: FolderFamily, folder: str | PathLike[str] | None) -> TaskFamily:
    if not folder:
        raise ValueError(f"family {family.name!r} needs a folder of images, one subfolder a class, got none")
    return family.read(Path(folder))


def folder_family_names() -> list[str]:
    """Return the names of the families for which ``get_family`` needs a folder of images."""
    return sorted(FOLDER_FAMILIES)


def function_names() -> list[str]:
    """Return the names that ``get_function`` accepts."""
    return sorted(FUNCTIONS)


def get_function(name: str, dimension: int, seed: int = 0) -> Task:
    """Return a function in as many dimensions as wished for.

    Args:
        name: One of ``function_names()``.
        dimension: Of its argument.
        seed: Picks the instance where the function has many.

    Raises:
        UnknownNameError: If there is no such function.
        ValueError: If the dimension is too small.
    """
    return choose("function", name, FUNCTIONS)(seed, dimension)


def parametric_names() -> list[str]:
    """Return the names that ``get_parametric`` accepts."""
    return sorted(PARAMETRIC)


def get_parametric(name: str) -> ParametricFamily:
    """Return a distribution over configurations by name.

    Raises:
        UnknownNameError: If there is no such family.
    """
    return choose("parametric family", name, PARAMETRIC)


def require_trainable(name: str) -> None:
    """Refuse to meta-train on what judges optimizers.

    Raises:
        ValueError: If the name is that of a judge.
        UnknownNameError: If there is no family of that name.
    """
    if name in JUDGES:
        raise ValueError(
            f"{name!r} judges optimizers and is never meta-trained on. "
            f"Choose from: {', '.join(family_names())}."
        )
    if name not in FOLDER_FAMILIES:
        get_family(name)
