"""Truncated backpropagation through the unroll, in memory that grows with the root of its length."""

from collections.abc import Callable
from math import ceil, isqrt
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Carried = TypeVar("Carried")
Segment = Callable[[Tensor, Carried, int, int], tuple[Tensor, Carried]]


def differentiate(
    segment: Segment[Carried], theta: Tensor, carried: Carried, length: int
) -> tuple[Tensor, Tensor, Carried]:
    """Differentiate the sum of the losses of an unroll.

    The unroll is cut into about ``sqrt(T)`` segments, of which only the ends are kept; going backwards, each
    is run again with a graph. (`torch.utils.checkpoint` does not go together with the `torch.func` transforms
    that inner steps are made of.)

    Args:
        segment: Takes meta-parameters, what is carried, and the first and last step; returns the summed loss
            of these steps and what is carried on. It must compute the same again when called again.
        theta: Meta-parameters, ``[M]``.
        carried: Parameters and state before the first step, in containers that pytree knows; constants.
        length: Steps ``T``.

    Returns:
        The gradient ``[M]``, the loss, and what is carried on, free of any graph.
    """
    size = ceil(length / max(1, isqrt(length)))
    starts = list(range(0, length, size))
    kept, total = [carried], torch.zeros((), dtype=theta.dtype, device=theta.device)
    with torch.no_grad():
        for start in starts:
            loss, after = segment(theta, kept[-1], start, min(start + size, length))
            total, kept = total + loss, [*kept, after]
    gradient = torch.zeros_like(theta)
    flowing: list[Tensor] | None = None
    for start, before in zip(reversed(starts), reversed(kept[:-1]), strict=True):
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            entered, entering = _leaves(before)
            loss, after = segment(leaf, entered, start, min(start + size, length))
            left = [tensor for tensor in tree_flatten(after)[0] if tensor.is_floating_point()]
        flows = flowing or [torch.zeros_like(tensor) for tensor in left]
        moving = [(out, flow) for out, flow in zip(left, flows, strict=True) if out.requires_grad]
        inward, *flowing = torch.autograd.grad(
            [loss, *(out for out, _ in moving)],
            [leaf, *entering],
            [torch.ones_like(loss), *(flow for _, flow in moving)],
            materialize_grads=True,
        )
        gradient = gradient + inward
    return gradient, total, kept[-1]


def _leaves(carried: Carried) -> tuple[Carried, list[Tensor]]:
    """What is carried with its floating-point tensors as leaves of a new graph, and these."""
    tensors, structure = tree_flatten(carried)
    fresh = [tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor for tensor in tensors]
    return tree_unflatten(fresh, structure), [tensor for tensor in fresh if tensor.is_floating_point()]
