"""One message for every name that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """Say that ``name`` is not a ``kind``, which names are, and the closest of them."""
    choices = sorted(valid)
    close = get_close_matches(name, choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}; expected one of: {', '.join(choices) or '(none)'}{hint}"
