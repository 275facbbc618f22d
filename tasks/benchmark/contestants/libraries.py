"""Entries from optimizer libraries: timm's registry, and pytorch-optimizer where it is installed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any

import torch

from tasks.benchmark.contestants.entry import Entry, centred_grid
from tasks.benchmark.contestants.probe import probed
from tasks.benchmark.contestants.usual_rates import usual_rates
from tasks.registry import UnknownNameError

PACKAGES = {"timm": "timm", "po": "pytorch-optimizer"}
SECOND_ORDER = ("adahessian", "sophiah")
OPTIONS: dict[str, dict[str, Any]] = {  # of timm's classes; their trust ratio is off without weight decay
    "Lamb": {"always_adapt": True},
    "Lars": {"always_adapt": True},
}


@dataclass(frozen=True)
class LibraryFactory:
    """Builds a library's optimizer with that library's defaults; it can be sent to another process.

    timm's come as ``create_optimizer_v2`` makes them: momentum 0.9, no weight decay; and with `OPTIONS`.

    Args:
        library: A key of `PACKAGES`.
        name: The optimizer's name there.
    """

    library: str
    name: str

    def __call__(self, params: Iterable[Any], /, *, lr: float) -> torch.optim.Optimizer:
        """An optimizer over tensors or ``(name, tensor)`` pairs."""
        if self.library == "timm":
            from timm.optim import create_optimizer_v2

            options = OPTIONS.get(class_name("timm", self.name), {})
            built: torch.optim.Optimizer = create_optimizer_v2(params, opt=self.name, lr=lr, **options)
            return built
        built = _class("po", self.name)(params, lr=lr)
        return built


@functools.cache
def library_names(library: str) -> tuple[str, ...]:
    """Names of a library's optimizers; none if it is not installed.

    Args:
        library: A key of `PACKAGES`.
    """
    if library == "timm":
        from timm.optim import list_optimizers

        return tuple(str(name) for name in list_optimizers())
    try:
        from pytorch_optimizer import get_supported_optimizers
    except ModuleNotFoundError:
        return ()
    return tuple(sorted(get_supported_optimizers()))


def library_entry(library: str, name: str) -> Entry:
    """A library's optimizer, at the learning rates that are usual for it.

    Args:
        library: A key of `PACKAGES`.
        name: The optimizer's name there.

    Returns:
        An entry named ``LIBRARY:NAME``.

    Raises:
        UnknownNameError: If the library has no such optimizer, or is not installed.
        ValueError: If it cannot be built from parameters and a learning rate alone.
    """
    names = library_names(library)
    if name not in names:
        close = get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        if not names:
            hint = ", which is not installed: pip install 'learned-opt[baselines]'"
        raise UnknownNameError(f"unknown optimizer {name!r} of {PACKAGES[library]}{hint}")
    known_as = class_name(library, name)
    default, centre = usual_rates(known_as, _class_default(library, name))
    options = OPTIONS.get(known_as, {}) if library == "timm" else {}
    entry = Entry(
        f"{library}:{name}",
        LibraryFactory(library, name),
        default,
        centred_grid(centre),
        label=known_as if known_as.lower() == name else name,
        identity=f"{library} {version(PACKAGES[library])} {name} {options or ''}".rstrip(),
        takes=("graph",) if name in SECOND_ORDER else (),
    )
    return probed(entry)


def class_name(library: str, name: str) -> str:
    """The name of an optimizer's class, which its variants share."""
    found = _class(library, name)
    return found.rpartition(".")[2] if isinstance(found, str) else str(found.__name__)


def _class(library: str, name: str) -> Any:
    """A library's class, or its dotted name where timm imports it only when it is needed."""
    if library == "timm":
        from timm.optim import get_optimizer_info

        return get_optimizer_info(name).opt_class
    from pytorch_optimizer import load_optimizer

    return load_optimizer(name)


def _class_default(library: str, name: str) -> float | None:
    """The learning rate that a class has by default, if any."""
    found = _class(library, name)
    if isinstance(found, str):
        return None
    parameter = inspect.signature(found).parameters.get("lr")
    default = parameter.default if parameter else None
    return float(default) if isinstance(default, (int, float)) and default > 0 else None
