"""The rule through `torch.compile`: a few fused passes over memory in place of a hundred."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InvalidCxxCompiler

from learned_opt.backends.eager import UpdateFunction
from learned_opt.memory import Meta
from learned_opt.rule import State, UpdateRule

INDUCTOR_OPTIONS: dict[str, Any] = {
    "realize_opcount_threshold": 10_000,
    "realize_reads_threshold": 10_000,
    "realize_acc_reads_threshold": 10_000,
    "max_fusion_size": 10_000,
}
"""Inductor's defaults cut a long pointwise expression into many passes over memory."""

MISSING_COMPILER = (
    'backend "compiled" found no working compiler and runs eagerly, to the same result but slower; '
    "install a C++ compiler (Debian: apt install g++), or set the environment variable CXX to one"
)


def compiled(rule: UpdateRule) -> UpdateFunction:
    """Run the rule's own definition, fused by Inductor.

    Without a compiler on the machine it says so once and runs eagerly.
    """
    fused = torch.compile(rule.update, options=INDUCTOR_OPTIONS)
    broken = False

    def update(
        meta: Meta, state: State, grads: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[list[Tensor], State]:
        nonlocal broken
        if not broken:
            try:
                return fused(meta, state, grads, params)
            except BackendCompilerFailed as error:
                if not _compiler_is_missing(error.inner_exception):
                    raise
                broken = True
                warnings.warn(f"{MISSING_COMPILER} ({error.inner_exception})", stacklevel=2)
        return rule.update(meta, state, grads, params)

    return update


def _compiler_is_missing(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, InvalidCxxCompiler | FileNotFoundError) or "Failed to find C compiler" in str(
            error
        ):
            return True
        error = error.__cause__
    return False
