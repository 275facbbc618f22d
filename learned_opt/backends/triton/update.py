"""What a rule does to tensors on a GPU, by kernels of Triton."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from learned_opt.backends.in_place import SLOWLY, InPlaceUpdate, Move
from learned_opt.backends.recipe import Recipe
from learned_opt.rule import UpdateRule
from learned_opt.state import ParameterState

if TYPE_CHECKING:
    from learned_opt.backends.triton.steps import Steps

TYPES = (torch.float32, torch.bfloat16, torch.float16)
LEAST_CAPABILITY = 8
"""Of compute, the major number: older GPUs lack bfloat16."""
MISSING = "Triton is not installed: pip install triton"
ADVICE = "it needs the GPU's driver and a C compiler (Debian: apt install gcc; or set CC to one)"


class TritonUpdate(InPlaceUpdate["Steps"]):
    """`InPlaceUpdate` in Triton; Triton itself is imported when the first step is taken.

    With the environment variable ``TRITON_INTERPRET=1`` it takes tensors on the CPU instead, where it is
    forced, and runs in Triton's interpreter.
    """

    name: ClassVar[str] = "triton"

    def __init__(self, rule: UpdateRule, *, forced: bool = True) -> None:
        super().__init__(rule, forced=forced)
        self.device_type = "cpu" if forced and os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
        self._steps: Steps | None = None

    def library(self) -> Steps | None:
        """Its kernels; see `InPlaceUpdate.library`."""
        if isinstance(self.sizes, str):
            return None
        if self._steps is not None:
            return self._steps
        why = lacking(self.device_type)
        if why and self.forced:
            raise RuntimeError(f"backend {self.name!r} cannot run: {why}")
        if why:
            _say_once(why)
            return None
        self._steps = importlib.import_module("learned_opt.backends.triton.steps").Steps(self.sizes)
        return self._steps

    def types(self, library: Steps) -> tuple[torch.dtype, ...]:
        """What kernels have types for."""
        return TYPES

    def obstacle(self, library: Steps, param: Tensor, grad: Tensor, state: ParameterState) -> str | None:
        """As `InPlaceUpdate.obstacle`; the device also counts."""
        return super().obstacle(library, param, grad, state) or _lack(param.device)

    def run(self, library: Steps, recipe: Recipe, moves: Sequence[Move]) -> int:
        """Start the kernels for all of them; 0, as nothing waits for what they find."""
        library.step(recipe, moves)
        return 0


@cache
def lacking(device_type: str) -> str | None:
    """What Triton lacks to work on such a device, if it is there; None if nothing."""
    if importlib.util.find_spec("triton") is None:
        return MISSING
    if device_type == "cuda" and torch.cuda.is_available():
        try:
            importlib.import_module("triton.runtime").driver.active.get_current_target()
        except Exception as error:  # of whatever kind a compiler or a driver makes it
            return f"Triton cannot start ({error}); {ADVICE}"
    return None


@cache
def _say_once(why: str) -> None:
    warnings.warn(f"{SLOWLY}: {why}", stacklevel=4)


@cache
def _lack(device: torch.device) -> str | None:
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < LEAST_CAPABILITY:
        found = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return f"{device} is of compute capability {found}; expected at least {LEAST_CAPABILITY}.0"
    return None
