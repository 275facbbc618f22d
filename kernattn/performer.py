"""Performer (FAVOR+) attention: random features of the exponential kernel, without positions.

``exp(q . k / sqrt(D)) = E Phi(q / D^1/4) . Phi(k / D^1/4)``. The features are positive, or trigonometric; the
rows of the projection are orthogonal, independent or hyperbolic pairs, as `gaussian_projection` draws them.
Trigonometric estimates can be negative, and their denominators are guarded: relative to the query's scale a
key weighs at least `TRIGONOMETRIC_LEAST` of its own, that is, ``exp(-|q - k|^2 / 2)`` counts as no less.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kernattn._checks import check_attention, check_key_mask, check_rank, without_autocast, working_dtype
from kernattn.features import trigonometric_features
from kernattn.fused import content_features
from kernattn.guarded import causal_guarded_attention, guarded_attention, guarded_step
from kernattn.linear import EPS, causal_linear_attention, linear_attention, linear_attention_step

Kind = Literal["positive", "trigonometric"]
TRIGONOMETRIC_LEAST = 1e-2


@without_autocast
def performer_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    projection: Tensor,
    kind: Kind = "positive",
    key_mask: Tensor | None = None,
    eps: float = EPS,
) -> Tensor:
    """Bidirectional Performer attention, ``O(L m (D + V))``.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L', D]``.
        value: ``[B, H, L', V]``.
        projection: From `gaussian_projection`, ``[H, m, D]`` or ``[m, D]``.
        kind: Of the features.
        key_mask: False where a key is padding, ``[B, L']``; a query without keys reads 0.
        eps: Added to the denominator.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes or dtypes disagree or there is no such kind.

    References:
        Choromanski et al., 2021, https://arxiv.org/abs/2009.14794
    """
    check_kind(kind)
    check_attention(query, key, value, causal=False)
    key_mask = check_key_mask(key_mask, key)
    if kind == "positive":
        query, key = _positive(query, key, projection)
        return linear_attention(query, key, value, key_mask=key_mask, eps=eps)
    key = scale_content(key)
    length = key.square().sum(dim=-1, keepdim=True).detach() / 2
    if key_mask is not None:
        length = length.masked_fill(~key_mask[..., None], 0.0)
    largest = length.amax(dim=-2, keepdim=True) if key.shape[-2] else None
    features = trigonometric_features(key, projection, log_scale=largest)
    return guarded_attention(
        _unit_query(query, projection), features, value, _least(features), key_mask=key_mask, eps=eps
    )


@without_autocast
def causal_performer_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    projection: Tensor,
    kind: Kind = "positive",
    decay_rate: Tensor | None = None,
    chunk: int = 64,
    state: Tensor | None = None,
    key_mask: Tensor | None = None,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """Causal Performer attention in chunks.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L, D]``.
        value: ``[B, H, L, V]``.
        projection: From `gaussian_projection`, ``[H, m, D]`` or ``[m, D]``.
        kind: Of the features.
        decay_rate: Per token, ``[H]``, non-negative.
        chunk: Tokens handled by one masked matrix product, at least 1.
        state: As returned: ``[B, H, m, V + 1]``, or ``[B, H, 2m + 1, V + 1]`` if trigonometric.
        key_mask: False where a key is padding, ``[B, L]``; a query without keys reads 0.
        eps: Added to the denominator.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``, and the state after the last token.

    Raises:
        ValueError: If shapes or dtypes disagree, ``chunk`` is below 1 or there is no such kind.
    """
    check_kind(kind)
    check_attention(query, key, value, causal=True)
    key_mask = check_key_mask(key_mask, key)
    options: dict[str, Any] = {
        "decay_rate": decay_rate,
        "chunk": chunk,
        "state": state,
        "key_mask": key_mask,
        "eps": eps,
    }
    if kind == "positive":
        query, key = _positive(query, key, projection)
        return causal_linear_attention(query, key, value, **options)
    features = trigonometric_features(scale_content(key), projection)
    return causal_guarded_attention(
        _unit_query(query, projection), features, value, _least(features), **options
    )


@without_autocast
def performer_step(
    state: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    projection: Tensor,
    kind: Kind = "positive",
    decay_rate: Tensor | None = None,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """One token of causal Performer attention: write it, then read.

    Args:
        state: As `causal_performer_attention` returns; zeros before the first token.
        query: ``[B, H, D]``.
        key: ``[B, H, D]``.
        value: ``[B, H, V]``.
        projection: ``[H, m, D]`` or ``[m, D]``, the same through the whole stream.
        kind: Of the features.
        decay_rate: Per token, ``[H]``, non-negative.
        eps: Added to the denominator.

    Returns:
        ``[B, H, V]`` in the dtype of ``value``, and the next state.

    Raises:
        ValueError: If shapes or dtypes disagree or there is no such kind.
    """
    check_kind(kind)
    check_rank("[B, H, .]", 3, query=query, key=key, value=value)
    query, key = query[..., None, :], key[..., None, :]
    if kind == "positive":
        query, key = (x.squeeze(-2) for x in _positive(query, key, projection))
        return linear_attention_step(state, query, key, value, decay_rate=decay_rate, eps=eps)
    features = trigonometric_features(scale_content(key), projection).squeeze(-2)
    query = _unit_query(query, projection).squeeze(-2)
    return guarded_step(state, query, features, value, _least(features), decay_rate=decay_rate, eps=eps)


def scale_content(content: Tensor) -> Tensor:
    """Divide queries or keys ``[..., D]`` by ``D^1/4``, in float32 or float64."""
    return content.to(working_dtype(content=content)) / math.pow(max(content.shape[-1], 1), 0.25)


def check_kind(kind: str) -> None:
    """Raise ValueError unless there is such a kind of features."""
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")


def _positive(query: Tensor, key: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    return (
        content_features(query, projection, rescale=True),
        content_features(key, projection),
    )


def _unit_query(query: Tensor, projection: Tensor) -> Tensor:
    """Trigonometric features without the factor of the query's length, which cancels."""
    query = scale_content(query)
    length = query.square().sum(dim=-1, keepdim=True) / 2
    return trigonometric_features(query, projection, log_scale=length)


def _least(key_features: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(key_features, dim=-1)
    return TRIGONOMETRIC_LEAST * length
