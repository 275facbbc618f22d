"""Entries from a user's own module, named ``module:callable``."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from tasks.benchmark.contestants.entry import Entry, centred_grid
from tasks.benchmark.contestants.probe import probed

DEFAULT_LR = 1e-3


@dataclass(frozen=True)
class UserFactory:
    """Builds what a callable of a module builds; it can be sent to another process.

    Args:
        reference: ``module:callable``, the callable with dots where it is an attribute of another.
    """

    reference: str

    def __call__(self, params: Iterable[Any], /, **options: Any) -> torch.optim.Optimizer:
        """Call it with parameters, ``lr=`` and perhaps ``steps=``."""
        optimizer: torch.optim.Optimizer = self.resolve()(params, **options)
        return optimizer

    def resolve(self) -> Callable[..., Any]:
        """The callable.

        Raises:
            ValueError: If there is no such module or callable, or the module raises.
        """
        module, _, path = self.reference.partition(":")
        try:
            found: Any = functools.reduce(getattr, path.split("."), _imported(module))
        except Exception as error:
            raise ValueError(
                f"optimizer {self.reference!r}: expected module:callable ({type(error).__name__}: {error})"
            ) from error
        if not callable(found):
            raise ValueError(f"optimizer {self.reference!r} is {type(found).__name__}, no callable")
        return cast(Callable[..., Any], found)


def user_entry(reference: str) -> Entry:
    """A user's optimizer: a subclass of ``torch.optim.Optimizer``, or a function that builds one.

    It is called as ``callable(named_parameters, lr=lr)``, and with ``steps=`` if it has a parameter of that
    name. Its default learning rate is its parameter's default, 0.001 if it has none; its sweep is centred
    tenfold above, as Adam's is. Its identity holds the text of its file, not of what that imports.

    Args:
        reference: ``module:callable``; the module is imported, from the working directory too.

    Raises:
        ValueError: If it cannot be imported, or does not build an optimizer.
    """
    factory = UserFactory(reference)
    found = factory.resolve()
    options = _parameters(found)
    default = options["lr"].default if "lr" in options else None
    usable = isinstance(default, (int, float)) and 0 < default < float("inf")
    lr = float(default) if usable and default is not None else DEFAULT_LR
    entry = Entry(
        reference,
        factory,
        lr,
        centred_grid(10 * lr),
        label=reference.partition(":")[2],
        identity=f"user {reference} {_source_digest(found)}",
        takes=("steps",) if "steps" in options else (),
    )
    return probed(entry)


def _imported(module: str) -> Any:
    """A module, if need be from the working directory, which a console script does not search."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] or os.getcwd() in sys.path:
            raise
    sys.path.append(os.getcwd())
    return importlib.import_module(module)


def _parameters(found: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(found).parameters)
    except (TypeError, ValueError):
        return {}


def _source_digest(found: Callable[..., Any]) -> str:
    """Hash of the file that defines a callable; of its type's for an instance; empty for compiled code."""
    inner = inspect.unwrap(found)
    while isinstance(inner, functools.partial):
        inner = inner.func
    try:
        source = inspect.getsourcefile(inner)
    except TypeError:
        source = inspect.getsourcefile(type(inner))
    return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""
