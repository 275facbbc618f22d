"""Optimizers by name: the built-in baselines, two libraries', Celo, and whatever a user's module makes."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches

import torch

from tasks.benchmark.contestants.entry import Entry, log_grid
from tasks.benchmark.contestants.libraries import PACKAGES, library_entry, library_names
from tasks.benchmark.contestants.published import celo_entry
from tasks.benchmark.contestants.user_factory import user_entry
from tasks.registry import UnknownNameError

BASELINES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("adam", functools.partial(torch.optim.Adam, fused=True), 1e-3, log_grid(), "Adam"),
        Entry("adamw", functools.partial(torch.optim.AdamW, fused=True), 1e-3, log_grid(), "AdamW"),
        Entry(
            "sgd",
            functools.partial(torch.optim.SGD, momentum=0.9, fused=True),
            1e-2,
            log_grid(1e-3, 10.0),
            "SGD (momentum)",
        ),
    )
}


OTHER_WAYS = (
    "every name of timm.optim.list_optimizers() and of pytorch-optimizer (timm:NAME, po:NAME where both have "
    "it), celo:PATH, and module:callable will do too"
)


def get_entry(name: str, others: Iterable[str] = ()) -> Entry:
    """An optimizer by name.

    Args:
        name: A key of `BASELINES`; a name of timm's registry, or of pytorch-optimizer where timm lacks it;
            ``timm:NAME`` or ``po:NAME`` for the one of that library; ``celo:PATH``, or ``celo`` with the path
            in ``$CELO_WEIGHTS``; ``module:callable``, which builds an optimizer from parameters and ``lr=``.
        others: What else would have done, for the message.

    Returns:
        The entry, with its own sweep of learning rates.

    Raises:
        UnknownNameError: If the name is unknown; the message says the closest.
        ValueError: If there is such an optimizer, but it cannot be built; the message says why.
    """
    prefix, colon, rest = name.partition(":")
    if name in BASELINES:
        return BASELINES[name]
    if prefix == "celo":
        return celo_entry(rest)
    if prefix in PACKAGES and colon:
        return library_entry(prefix, rest)
    if colon:
        return user_entry(name)
    for library in PACKAGES:
        if name in library_names(library):
            return replace(library_entry(library, name), name=name)
    raise UnknownNameError(_unknown(name, others))


def is_entry_name(name: str) -> bool:
    """Whether `get_entry` knows a plain name, one without a colon."""
    return name in BASELINES or name == "celo" or any(name in library_names(one) for one in PACKAGES)


def _unknown(name: str, others: Iterable[str]) -> str:
    """Say that nothing is of that name, and what comes close among all names and ``others``."""
    leading = [*BASELINES, "celo", *others]
    close = get_close_matches(name, [*leading, *library_names("timm"), *library_names("po")], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown optimizer {name!r}.{hint} Choose from: {', '.join(leading)}; {OTHER_WAYS}."
