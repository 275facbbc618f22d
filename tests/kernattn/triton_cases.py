"""Runs the Triton kernels in their interpreter and prints how far they are from the plain forms, as JSON.

A program of its own, because the interpreter has to be asked for before Triton is imported.
"""

import json
import os
from collections.abc import Callable

os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch import Tensor

from kernattn import fused, triton_kernels
from kernattn.linear import causal_sums


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compare(
    fast: Callable[..., tuple[Tensor, ...]], slow: Callable[..., tuple[Tensor, ...]], arguments: list[Tensor]
) -> list[float]:
    """Relative errors of outputs, then of the gradients of a fixed random projection of all outputs."""
    found = []
    for function, dtype in ((fast, torch.float32), (slow, torch.float64)):
        leaves = [x.to(dtype).requires_grad_() for x in arguments]
        outputs = function(*leaves)
        loss = sum((x * normal(*x.shape, seed=k).to(dtype)).sum() for k, x in enumerate(outputs))
        found.append([x.detach() for x in (*outputs, *torch.autograd.grad(loss, leaves))])
    return [
        float((left.double() - right).abs().max() / right.abs().max().clamp(min=1))
        for left, right in zip(*found, strict=True)
    ]


def sums(
    length: int, features: int, width: int, *, decays: bool, leading: tuple[int, int] = (2, 2)
) -> list[float]:
    arguments = [
        normal(*leading, length, features, seed=1) / features**0.5,
        normal(*leading, length, features, seed=2),
        normal(*leading, length, width, seed=3),
        normal(*leading, features, width, seed=4),
    ]
    if decays:
        arguments.append(torch.linspace(0.0, 0.3, leading[1]))

    def fast(query: Tensor, key: Tensor, value: Tensor, state: Tensor, *rate: Tensor) -> tuple[Tensor, ...]:
        return triton_kernels.causal_sums(query, key, value, rate[0] if rate else None, state)

    def slow(query: Tensor, key: Tensor, value: Tensor, state: Tensor, *rate: Tensor) -> tuple[Tensor, ...]:
        return causal_sums(query, key, value, decay_rate=rate[0] if rate else None, state=state)

    return compare(fast, slow, arguments)


def features(length: int, *, width: int, count: int, offset: tuple[int, ...], rescale: bool) -> list[float]:
    """The kernel in the place that it has on CUDA, against the plain forward and its gradients."""
    arguments = [normal(2, 3, length, width, seed=1), normal(3, count, width, seed=2)]
    if offset:
        arguments.append(normal(*offset, seed=3))

    def run(content: Tensor, rows: Tensor, *offsets: Tensor) -> tuple[Tensor, ...]:
        return (
            fused.content_features(content, rows, offset=offsets[0] if offsets else None, rescale=rescale),
        )

    def fast(*tensors: Tensor) -> tuple[Tensor, ...]:
        fused.kernels_for = lambda *_: triton_kernels  # type: ignore[assignment]
        try:
            return run(*tensors)
        finally:
            fused.kernels_for = lambda *_: None  # type: ignore[assignment]

    return compare(fast, run, arguments)


CASES = {
    "sums": lambda: sums(70, 20, 9, decays=False),
    "sums that decay": lambda: sums(70, 20, 9, decays=True),
    "sums of a whole chunk": lambda: sums(64, 16, 33, decays=True, leading=(1, 2)),
    "sums of one token": lambda: sums(1, 5, 3, decays=True),
    "features": lambda: features(37, width=10, count=20, offset=(), rescale=False),
    "features of queries": lambda: features(37, width=10, count=20, offset=(3, 37, 20), rescale=True),
    "features of keys": lambda: features(37, width=10, count=20, offset=(3, 37, 20), rescale=False),
    "features of rows": lambda: features(5, width=16, count=16, offset=(2, 3, 5, 16), rescale=False),
}

if __name__ == "__main__":
    print(json.dumps({name: case() for name, case in CASES.items()}))
