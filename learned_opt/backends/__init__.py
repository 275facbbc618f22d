"""Ways to run one and the same `UpdateRule.update`."""

from collections.abc import Callable

from learned_opt.backends.auto import AutoUpdate, in_place
from learned_opt.backends.compiled import compiled_update
from learned_opt.backends.eager import UpdateFunction, eager_update
from learned_opt.backends.in_place import InPlaceUpdate, Move
from learned_opt.backends.native import NativeUpdate
from learned_opt.backends.triton import TritonUpdate
from learned_opt.names import unknown_name
from learned_opt.rule import UpdateRule

Backend = Callable[[UpdateRule], UpdateFunction]
BACKENDS: dict[str, Backend] = {
    "auto": AutoUpdate,
    "eager": eager_update,
    "compiled": compiled_update,
    "native": NativeUpdate,
    "triton": TritonUpdate,
}
"""``"auto"`` runs what it can natively on a CPU with a compiler, by Triton on a GPU; the rest eagerly."""


def get_backend(name: str) -> Backend:
    """The backend of that name: a function from a rule to the function that advances it.

    Raises:
        ValueError: If there is none; it lists those there are.
    """
    if name not in BACKENDS:
        raise ValueError(unknown_name("backend", name, BACKENDS))
    return BACKENDS[name]


__all__ = [
    "BACKENDS",
    "Backend",
    "InPlaceUpdate",
    "Move",
    "NativeUpdate",
    "TritonUpdate",
    "UpdateFunction",
    "get_backend",
    "in_place",
]
