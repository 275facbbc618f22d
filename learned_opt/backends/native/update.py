"""What a rule does to tensors on the CPU, by the compiled step."""

import warnings
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from learned_opt.backends.in_place import SLOWLY, InPlaceUpdate, Move
from learned_opt.backends.native.build import BuildError
from learned_opt.backends.native.library import TYPES, Library
from learned_opt.backends.recipe import Recipe, Sizes
from learned_opt.orthogonal import CAPABILITIES, LEAST_SIDE

LARGEST_SHAPED, MOST_SHAPED_ROWS = 2**18, 256
"""Elements, and rows or columns, whichever are fewer, of the largest matrix whose direction it makes
orthogonal; torch's products of larger ones are as fast. With AMX those in bfloat16 are faster from
`LEAST_SIDE` on."""
LANES = 16
"""Floats of the widest vector, to which the shorter side is padded: a long and thin matrix would take many
times its own memory."""

_libraries: dict[Sizes, Library | BuildError] = {}


def library_for(sizes: Sizes) -> Library | BuildError:
    """The compiled step, or why there is none; tried once a process."""
    if sizes not in _libraries:
        try:
            _libraries[sizes] = Library(sizes)
        except BuildError as error:
            _libraries[sizes] = error
    return _libraries[sizes]


class NativeUpdate(InPlaceUpdate[Library]):
    """`InPlaceUpdate` in C++."""

    name: ClassVar[str] = "native"
    device_type = "cpu"

    def library(self) -> Library | None:
        """The compiled step; see `InPlaceUpdate.library`."""
        if isinstance(self.sizes, str):
            return None
        known = self.sizes in _libraries
        library = library_for(self.sizes)
        if isinstance(library, Library):
            return library
        if self.forced:
            raise RuntimeError(f"backend 'native' cannot run: {library}") from library
        if not known:
            warnings.warn(f"{SLOWLY}: {library}", stacklevel=2)
        return None

    def types(self, library: Library) -> tuple[torch.dtype, ...]:
        """All that parameters may have."""
        return tuple(TYPES)

    def shapes(self, param: Tensor) -> bool:
        """Small matrices: see `InPlaceUpdate.shapes`."""
        size = param.numel()
        if not 0 < size <= LARGEST_SHAPED:
            return False
        short, long = sorted((param.shape[0], size // param.shape[0]))
        most = LEAST_SIDE - 1 if CAPABILITIES.get("amx_bf16") else MOST_SHAPED_ROWS
        return short <= most and long * max(short, LANES) <= LARGEST_SHAPED

    def run(self, library: Library, recipe: Recipe, moves: Sequence[Move]) -> int:
        """Take all of them in one call; see `InPlaceUpdate.step`."""
        return library.step(recipe, moves)
