"""Which of the hot paths a kernel takes: Triton's on CUDA, none elsewhere."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType

import torch
from torch import Tensor

WIDEST = 256
"""Features, or columns of keys, that a kernel holds at once."""


@functools.cache
def triton_kernels() -> ModuleType | None:
    """The module of kernels, or None without Triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("kernattn.triton_kernels")


def kernels_for(tensor: Tensor, *sizes: int) -> ModuleType | None:
    """Kernels for a tensor, if it is float32 on CUDA, outside function transforms, and fits.

    Args:
        tensor: What is worked on.
        *sizes: Widths that a kernel must hold at once.

    Returns:
        The module of kernels, or None for the plain form.
    """
    if not tensor.is_cuda or tensor.dtype != torch.float32 or max(sizes) > WIDEST:
        return None
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    return triton_kernels()
