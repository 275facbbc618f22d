"""Linear attention whose estimated weights may be negative, with a guarded denominator.

An estimate of positive weights by features of either sign can put a denominator at zero or below it, where
the true one cannot be. Each key therefore comes with the least weight that it can truly have, and a
denominator is raised to the sum of those of its keys: ``out_i = N_i / max(D_i, sum_j least_j)``. Nothing else
is changed, so where an estimate is possible at all it stays as it is, and the guard is as causal as the
attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernattn._checks import check_same, without_autocast, working_dtype
from kernattn.linear import EPS, causal_sums, linear_sums, mask_keys, with_ones


@without_autocast
def guarded_attention(
    query_features: Tensor,
    key_features: Tensor,
    value: Tensor,
    least: Tensor,
    *,
    key_mask: Tensor | None = None,
    eps: float = EPS,
) -> Tensor:
    """Bidirectional linear attention over features of either sign.

    Args:
        query_features: ``[..., L, m]``.
        key_features: ``[..., L', m]``.
        value: ``[..., L', V]``.
        least: Least weight of each key, ``[..., L']``, non-negative.
        key_mask: False where a key is padding, broadcasts to ``[..., L']``; a query without keys reads 0.
        eps: Added to the guarded denominator.

    Returns:
        ``[..., L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    dtype = working_dtype(query_features=query_features, key_features=key_features, value=value)
    check_same("L", -1, least=least, key_features=key_features.mT)
    sums = linear_sums(query_features, key_features, with_ones(value.to(dtype)), key_mask=key_mask)
    floor, _ = mask_keys(least.to(dtype)[..., None], least.to(dtype)[..., None], key_mask)
    return _divide(sums, floor.sum(dim=-2, keepdim=True), eps).to(value.dtype)


@without_autocast
def causal_guarded_attention(
    query_features: Tensor,
    key_features: Tensor,
    value: Tensor,
    least: Tensor,
    *,
    decay_rate: Tensor | None = None,
    chunk: int = 64,
    state: Tensor | None = None,
    key_mask: Tensor | None = None,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """Causal linear attention over features of either sign, in chunks.

    Args:
        query_features: ``[..., L, m]``.
        key_features: ``[..., L, m]``.
        value: ``[..., L, V]``.
        least: Least weight of each key, ``[..., L]``, non-negative; the sum over the past decays with it.
        decay_rate: Per token, non-negative, broadcasts to the leading axes.
        chunk: Tokens handled by one masked matrix product, at least 1.
        state: ``[..., m + 1, V + 1]``, as returned; its last row sums the least weights. Zeros by default.
        key_mask: False where a key is padding, broadcasts to ``[..., L]``; a query without keys reads 0.
        eps: Added to the guarded denominator.

    Returns:
        The outputs ``[..., L, V]`` in the dtype of ``value``, and the state after the last token.

    Raises:
        ValueError: If shapes or dtypes disagree, or ``chunk`` is below 1.
    """
    dtype = working_dtype(query_features=query_features, key_features=key_features, value=value)
    check_same("L", -1, least=least, key_features=key_features.mT)
    query, key, least = query_features.to(dtype), key_features.to(dtype), least.to(dtype)[..., None]
    options: dict[str, Any] = {"decay_rate": decay_rate, "chunk": chunk, "key_mask": key_mask}
    sums, after = causal_sums(
        torch.cat([query, torch.zeros_like(least)], dim=-1),
        torch.cat([key, least], dim=-1),
        with_ones(value.to(dtype)),
        state=state,
        **options,
    )
    before = None if state is None else state[..., -1:, -1:]
    one = torch.ones_like(least)
    floor, _ = causal_sums(one, least, one, state=before, **options)
    return _divide(sums, floor, eps).to(value.dtype), after


@without_autocast
def guarded_step(
    state: Tensor,
    query_features: Tensor,
    key_features: Tensor,
    value: Tensor,
    least: Tensor,
    *,
    decay_rate: Tensor | None = None,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """One token of the same attention: write it, then read.

    Args:
        state: ``[..., m + 1, V + 1]``, zeros before the first token.
        query_features: ``[..., m]``.
        key_features: ``[..., m]``.
        value: ``[..., V]``.
        least: Least weight of the key, ``[...]``.
        decay_rate: Per token, non-negative, broadcasts to the leading axes.
        eps: Added to the guarded denominator.

    Returns:
        The output ``[..., V]`` in the dtype of ``value``, and the next state.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    output, state = causal_guarded_attention(
        query_features[..., None, :],
        key_features[..., None, :],
        value[..., None, :],
        least[..., None],
        decay_rate=decay_rate,
        chunk=1,
        state=state,
        eps=eps,
    )
    return output.squeeze(-2), state


def _divide(sums: Tensor, floor: Tensor, eps: float) -> Tensor:
    return sums[..., :-1] / (torch.maximum(sums[..., -1:], floor) + eps)
