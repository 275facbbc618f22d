"""Tensors that are kept from call to call."""

import torch


def may_be_kept() -> bool:
    """Whether a tensor that is made now is of use to later calls.

    It is not in inference mode, where autograd may not save it, or within a transform of `torch.func`, to
    which it belongs.
    """
    if torch.is_inference_mode_enabled():
        return False
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None
