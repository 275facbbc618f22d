"""The O(L^2) definitions; everything else is tested against them in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernattn._checks import (
    check_attention,
    check_decay_rate,
    check_key_mask,
    check_same,
    without_autocast,
    working_dtype,
)


def pairwise_lags(position: Tensor, key_position: Tensor | None = None) -> Tensor:
    """Differences ``r_i - r_j`` of positions ``[..., L, l]`` and ``[..., L', l]``, as ``[..., L, L', l]``.

    The keys' positions are the queries' by default.
    """
    if key_position is None:
        key_position = position
    check_same("l", -1, position=position, key_position=key_position)
    return position[..., :, None, :] - key_position[..., None, :, :]


@without_autocast
def softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    log_mask: Tensor | None = None,
    decay_rate: Tensor | None = None,
    causal: bool = False,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Softmax attention with an additive log-mask.

    ``A_ij = exp(q_i . k_j / sqrt(D) + f(r_i - r_j) - decay_rate |i - j|)``, ``out = A V / (A 1)``; causal:
    ``A_ij = 0`` for ``j > i``.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L', D]``, ``L' = L`` if causal or decaying.
        value: ``[B, H, L', V]``.
        log_mask: ``f``, broadcasts to ``[B, H, L, L']``, in nats; -inf forbids a pair.
        decay_rate: Per token and head, ``[H]``, non-negative.
        causal: Whether a token sees only itself and the past.
        key_mask: False where a key is padding, ``[B, L']``; a query without keys reads 0.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    check_attention(query, key, value, causal=causal or decay_rate is not None)
    dtype = working_dtype(query=query, key=key, value=value)
    scores = query.to(dtype) @ key.to(dtype).mT / math.sqrt(max(query.shape[-1], 1))
    if log_mask is not None:
        scores = scores + log_mask.to(dtype)
    lag = _index_lags(query.shape[-2], key.shape[-2], query.device)
    if decay_rate is not None:
        check_decay_rate(decay_rate, scores.shape[:-2])
        scores = scores - decay_rate.to(dtype)[..., None, None] * lag.abs()
    if causal:
        scores = scores.masked_fill(lag < 0, -torch.inf)
    keep = check_key_mask(key_mask, key)
    tokens = value.to(dtype)
    if keep is not None:
        scores = scores.masked_fill(~keep[..., None, :], -torch.inf)
        tokens = tokens.masked_fill(~keep[..., None], 0.0)
    empty = (scores == -torch.inf).all(dim=-1, keepdim=True)
    weights = scores.masked_fill(empty, 0.0).softmax(dim=-1).masked_fill(empty, 0.0)
    return (weights @ tokens).to(value.dtype)


@without_autocast
def kernel_attention(
    weights: Tensor,
    value: Tensor,
    *,
    decay_rate: Tensor | None = None,
    causal: bool = False,
    eps: float = 0.0,
) -> Tensor:
    """Normalised attention with a given matrix, ``out = A V / (A 1 + eps)``.

    ``A_ij = weights_ij exp(-decay_rate |i - j|)``; causal: ``A_ij = 0`` for ``j > i``.

    Args:
        weights: Kernel values, ``[..., L, L']``.
        value: ``[..., L', V]``.
        decay_rate: Per token, broadcasts to the leading axes.
        causal: Whether a token sees only itself and the past.
        eps: Added to the denominator.

    Returns:
        ``[..., L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    dtype = working_dtype(weights=weights, value=value)
    check_same("L'", -1, weights=weights, value=value.mT)
    matrix = weights.to(dtype)
    lag = _index_lags(weights.shape[-2], weights.shape[-1], weights.device)
    if decay_rate is not None:
        check_decay_rate(decay_rate, weights.shape[:-2])
        matrix = matrix * torch.exp(-decay_rate.to(dtype)[..., None, None] * lag.abs())
    if causal:
        matrix = matrix.masked_fill(lag < 0, 0.0)
    return (matrix @ value.to(dtype) / (matrix.sum(dim=-1, keepdim=True) + eps)).to(value.dtype)


def _index_lags(queries: int, keys: int, device: torch.device) -> Tensor:
    return torch.arange(queries, device=device)[:, None] - torch.arange(keys, device=device)
