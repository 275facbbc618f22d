"""Triton kernels of the hot paths: chunked causal sums, and positive features with their projection.

A causal sum is one scan over chunks with the state held in registers, for each row, head and block of value
columns. Its gradients are scans of the same kind with the roles exchanged, two of them backwards in time.
Without a GPU the kernels run in Triton's interpreter if ``TRITON_INTERPRET=1`` is set before this is
imported.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK, COLUMNS, TOKENS = 32, 32, 32


@triton.jit  # type: ignore[untyped-decorator]
def _scan_kernel(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    rate,
    before,
    output,
    after,
    length,
    features,
    width,
    REVERSE: tl.constexpr,
    DECAYS: tl.constexpr,
    CHUNK: tl.constexpr,
    FEATURES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    feature = tl.arange(0, FEATURES)
    token = tl.arange(0, CHUNK)
    state_at = row * features * width + feature[:, None] * width + column[None, :]
    state_in = (feature[:, None] < features) & (column[None, :] < width)
    state = tl.load(before + state_at, mask=state_in, other=0.0)
    decay = tl.load(rate + row) if DECAYS else 0.0
    lag = (token[:, None] - token[None, :]).to(tl.float32)
    late = 1.0 if REVERSE else 0.0
    for start in range(0, length, CHUNK):
        step = start + token
        count = tl.minimum(length - start, CHUNK)
        place = length - 1 - step if REVERSE else step
        alive = step < length
        feature_at = (row * length + place[:, None]) * features + feature[None, :]
        feature_in = alive[:, None] & (feature[None, :] < features)
        q = tl.load(query + feature_at, mask=feature_in, other=0.0)
        k = tl.load(key + feature_at, mask=feature_in, other=0.0)
        value_at = (row * length + place[:, None]) * width + column[None, :]
        value_in = alive[:, None] & (column[None, :] < width)
        v = tl.load(value + value_at, mask=value_in, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        scores = tl.where(lag >= 0, scores * tl.exp(-decay * tl.maximum(lag, 0.0)), 0.0)
        q = q * tl.exp(-decay * (token + 1.0 - late))[:, None]
        sums = tl.dot(scores, v, input_precision="ieee") + tl.dot(q, state, input_precision="ieee")
        tl.store(output + value_at, sums, mask=value_in)
        left = tl.maximum(count - 1.0 - token, 0.0) + late
        k = k * tl.exp(-decay * left)[:, None]
        state = state * tl.exp(-decay * count) + tl.dot(tl.trans(k), v, input_precision="ieee")
    tl.store(after + state_at, state, mask=state_in)


@triton.jit  # type: ignore[untyped-decorator]
def _features_kernel(  # type: ignore[no-untyped-def]
    content,
    rows,
    offset,
    output,
    length,
    heads,
    width,
    features,
    rows_stride,
    offset_batch,
    offset_head,
    half_scale,
    log_root,
    OFFSET: tl.constexpr,
    RESCALE: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    FEATURES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = row % heads
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    feature = tl.arange(0, FEATURES)
    column = tl.arange(0, WIDTH)
    alive = token[:, None] < length
    x_at = (row * length + token[:, None]) * width + column[None, :]
    x = tl.load(content + x_at, mask=alive & (column[None, :] < width), other=0.0)
    w_at = head * rows_stride + feature[:, None] * width + column[None, :]
    w = tl.load(rows + w_at, mask=(feature[:, None] < features) & (column[None, :] < width), other=0.0)
    exponent = tl.dot(x, tl.trans(w), input_precision="ieee")
    inside = alive & (feature[None, :] < features)
    if OFFSET:
        offset_at = (row // heads) * offset_batch + head * offset_head
        offset_at += token[:, None].to(tl.int64) * features + feature[None, :]
        exponent += tl.load(offset + offset_at, mask=inside, other=0.0)
    if RESCALE:
        largest = tl.max(tl.where(feature[None, :] < features, exponent, -float("inf")), axis=1)
        exponent = exponent - largest[:, None]
    else:
        exponent = exponent - (half_scale * tl.sum(x * x, axis=1) + log_root)[:, None]
    out_at = (row * length + token[:, None]) * features + feature[None, :]
    tl.store(output + out_at, tl.exp(exponent), mask=inside)


def _power(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())


def _scan(
    query: Tensor, key: Tensor, value: Tensor, rate: Tensor | None, before: Tensor, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """One scan over ``[N, L, m]``, ``[N, L, m]``, ``[N, L, V]`` from a state ``[N, m, V]``.

    Backwards the last token comes first, and what is written decays once more before it is carried on.
    """
    (count, length, width), features = value.shape, key.shape[-1]
    query, key, value, before = (x.contiguous() for x in (query, key, value, before))
    output, after = torch.empty_like(value), torch.empty_like(before)
    if before.numel() and count:
        _scan_kernel[(count, triton.cdiv(width, COLUMNS))](
            query,
            key,
            value,
            before if rate is None else rate.contiguous(),
            before,
            output,
            after,
            length,
            features,
            width,
            REVERSE=reverse,
            DECAYS=rate is not None,
            CHUNK=CHUNK,
            FEATURES=_power(features),
            COLUMNS=COLUMNS,
        )
        return output, after
    return output.zero_(), after.copy_(before)


class CausalSums(torch.autograd.Function):
    """Causal sums of ``[N, L, .]`` in float32 with a decay rate ``[N]`` or none, and the state after them."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rate: Tensor | None, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scan forwards."""
        output, after = _scan(query, key, value, rate, before)
        ctx.save_for_backward(query, key, value, rate, before, after)
        return output, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, after_gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Three scans with the roles exchanged, two of them backwards."""
        query, key, value, rate, before, after = ctx.saved_tensors
        query_gradient, _ = _scan(gradient, value, key, rate, before.mT)
        key_gradient, _ = _scan(value, gradient, query, rate, after_gradient.mT, reverse=True)
        value_gradient, before_gradient = _scan(key, query, gradient, rate, after_gradient, reverse=True)
        rate_gradient = None
        if rate is not None:
            step = torch.arange(1, value.shape[-2] + 1, device=value.device, dtype=value.dtype)
            moved = (query * query_gradient).sum(dim=-1) - (key * key_gradient).sum(dim=-1)
            carried = value.shape[-2] * (after * after_gradient).sum(dim=(-2, -1))
            rate_gradient = -(moved @ step + carried)
        return query_gradient, key_gradient, value_gradient, rate_gradient, before_gradient


def causal_sums(
    query: Tensor, key: Tensor, value: Tensor, rate: Tensor | None, before: Tensor
) -> tuple[Tensor, Tensor]:
    """Causal sums by the kernel.

    Args:
        query: ``[..., L, m]``, float32; all leading axes the same.
        key: ``[..., L, m]``.
        value: ``[..., L, V]``.
        rate: ``[...]`` after broadcasting, or None.
        before: State, ``[..., m, V]``.

    Returns:
        ``[..., L, V]`` and the state after the last token.
    """
    leading = value.shape[:-2]
    flat = [x.reshape(math.prod(leading), *x.shape[-2:]) for x in (query, key, value, before)]
    rate = None if rate is None else rate.expand(leading).reshape(-1)
    output, after = CausalSums.apply(*flat[:3], rate, flat[3])
    return output.reshape(value.shape), after.reshape(before.shape)


def positive_features(x: Tensor, rows: Tensor, offset: Tensor | None, rescale: bool) -> Tensor:
    """``exp(W x - |x|^2 / (2 sqrt(D)) + offset)`` over ``m^1/2`` or each token's largest, forward alone.

    Args:
        x: ``[B, H, L, D]``, float32.
        rows: W over ``D^1/4``, ``[H, m, D]`` or ``[m, D]``.
        offset: Broadcasts to ``[B, H, L, m]``.
        rescale: Whether to divide by each token's largest.

    Returns:
        ``[B, H, L, m]``.
    """
    batch, heads, length, width = x.shape
    features = rows.shape[-2]
    output = x.new_empty(batch, heads, length, features)
    if not output.numel():
        return output
    strides = (0, 0)
    if offset is not None:
        shape = (1,) * (4 - offset.dim()) + tuple(offset.shape)
        offset = offset.reshape(shape).expand(*shape[:2], length, features).contiguous()
        strides = (offset.stride(0) * (shape[0] > 1), offset.stride(1) * (shape[1] > 1))
    rows = rows.contiguous()
    _features_kernel[(batch * heads, triton.cdiv(length, TOKENS))](
        x.contiguous(),
        rows,
        rows if offset is None else offset,
        output,
        length,
        heads,
        width,
        features,
        rows.stride(0) if rows.dim() == 3 and rows.shape[0] > 1 else 0,
        *strides,
        0.5 / math.sqrt(max(width, 1)),
        math.log(max(features, 1)) / 2,
        OFFSET=offset is not None,
        RESCALE=rescale,
        TOKENS=TOKENS,
        WIDTH=_power(width),
        FEATURES=_power(features),
    )
    return output
