"""Names: looking one up among those that exist."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class UnknownNameError(ValueError):
    """There is nothing of that name; the message lists what there is and the closest match."""


def choose(kind: str, name: str, mapping: Mapping[str, T]) -> T:
    """Look up a name.

    Args:
        kind: What is looked up, for the message: ``"task"``.
        name: The name.
        mapping: What exists, by name.

    Raises:
        UnknownNameError: If the name is not there; it lists those that are and the closest match.
    """
    if name in mapping:
        return mapping[name]
    close = difflib.get_close_matches(str(name), mapping, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownNameError(f"Unknown {kind} {name!r}.{hint} Choose from: {', '.join(sorted(mapping))}.")
