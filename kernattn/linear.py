"""The linear-attention engine: bidirectional, chunked causal and one-step forms of one sum.

``out_i = sum_j A_ij v_j / (sum_j A_ij + eps)`` with ``A_ij = (Phi_i . Phi'_j) exp(-decay_rate (i - j))``
never builds A. The denominator is one more value column of ones, so a state is one tensor of shape
``[..., m, V + 1]``. There is no common stabiliser: outputs never depend on other rows of the batch or on the
future.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernattn._checks import check_decay_rate, check_same, without_autocast, working_dtype

EPS = 1e-20
"""Default guard of a denominator: changes nothing unless every weight has underflowed."""


@without_autocast
def linear_attention(
    query_features: Tensor, key_features: Tensor, value: Tensor, *, eps: float = EPS
) -> Tensor:
    """Bidirectional linear attention, ``Phi (Phi'^T V) / (Phi (Phi'^T 1) + eps)``.

    Args:
        query_features: ``[..., L, m]``.
        key_features: ``[..., L', m]``.
        value: ``[..., L', V]``.
        eps: Added to the denominator.

    Returns:
        ``[..., L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    dtype = _check(query_features, key_features, value)
    state = key_features.to(dtype).mT @ with_ones(value.to(dtype))
    return normalise(query_features.to(dtype) @ state, eps=eps).to(value.dtype)


def causal_linear_attention(
    query_features: Tensor,
    key_features: Tensor,
    value: Tensor,
    *,
    decay_rate: Tensor | None = None,
    chunk: int = 64,
    state: Tensor | None = None,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """Causal linear attention in chunks, with decay and a state to go on from.

    Args:
        query_features: ``[..., L, m]``.
        key_features: ``[..., L, m]``.
        value: ``[..., L, V]``.
        decay_rate: Per token, non-negative, broadcasts to the leading axes (``[H]`` for ``[B, H]``).
        chunk: Tokens handled by one masked matrix product, at least 1.
        state: Sums over the tokens before, ``[..., m, V + 1]``, as returned; zeros by default.
        eps: Added to the denominator.

    Returns:
        The outputs ``[..., L, V]`` in the dtype of ``value``, and the state after the last token.

    Raises:
        ValueError: If shapes or dtypes disagree, or ``chunk`` is below 1.
    """
    sums, state = causal_sums(
        query_features, key_features, with_ones(value), decay_rate=decay_rate, chunk=chunk, state=state
    )
    return normalise(sums, eps=eps).to(value.dtype), state


@without_autocast
def linear_attention_step(
    state: Tensor,
    query_features: Tensor,
    key_features: Tensor,
    value: Tensor,
    *,
    decay_rate: Tensor | None = None,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """One token of causal linear attention: write it, then read.

    Args:
        state: Sums so far, ``[..., m, V + 1]``, float32 or float64; zeros before the first token.
        query_features: ``[..., m]``.
        key_features: ``[..., m]``.
        value: ``[..., V]``.
        decay_rate: Per token, non-negative, broadcasts to the leading axes.
        eps: Added to the denominator.

    Returns:
        The output ``[..., V]`` in the dtype of ``value``, and the next state.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    if state.dim() < 2:
        raise ValueError(f"state must be [..., m, V + 1], got {list(state.shape)}")
    check_same("m", -1, query_features=query_features, key_features=key_features, state=state.mT)
    dtype = working_dtype(query_features=query_features, key_features=key_features, value=value, state=state)
    if decay_rate is not None:
        check_decay_rate(decay_rate, state.shape[:-2])
        state = state * torch.exp(-decay_rate.to(dtype))[..., None, None]
    written = key_features.to(dtype)[..., :, None] * with_ones(value.to(dtype))[..., None, :]
    if written.shape[-1] != state.shape[-1]:
        raise ValueError(f"state must be [..., m, V + 1] with V = {value.shape[-1]}, got {list(state.shape)}")
    state = state.to(dtype) + written
    sums = (query_features.to(dtype)[..., None, :] @ state).squeeze(-2)
    return normalise(sums, eps=eps).to(value.dtype), state


@without_autocast
def causal_sums(
    query_features: Tensor,
    key_features: Tensor,
    value: Tensor,
    *,
    decay_rate: Tensor | None = None,
    chunk: int = 64,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Unnormalised causal sums ``sum_{j <= i} (Phi_i . Phi'_j) exp(-decay_rate (i - j)) v_j`` in chunks.

    Args:
        query_features: ``[..., L, m]``.
        key_features: ``[..., L, m]``.
        value: ``[..., L, V]``; leading axes broadcast.
        decay_rate: Per token, non-negative, broadcasts to the leading axes.
        chunk: Tokens handled by one masked matrix product, at least 1.
        state: Sums over the tokens before, ``[..., m, V]``; zeros by default.

    Returns:
        The sums ``[..., L, V]`` and the state after the last token, float32 or float64.

    Raises:
        ValueError: If shapes or dtypes disagree, or ``chunk`` is below 1.
    """
    dtype = _check(query_features, key_features, value)
    check_same("L", -2, query_features=query_features, key_features=key_features)
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    leading = torch.broadcast_shapes(key_features.shape[:-2], value.shape[:-2])  # type: ignore[no-untyped-call]
    shape = (*leading, key_features.shape[-1], value.shape[-1])
    if state is None:
        state = value.new_zeros(shape, dtype=dtype)
    elif state.shape != shape:
        raise ValueError(f"state must be [..., m, V] = {list(shape)}, got {list(state.shape)}")
    else:
        dtype = torch.promote_types(dtype, working_dtype(state=state))
        state = state.to(dtype)
    if decay_rate is None:
        decay_rate = value.new_zeros((), dtype=dtype)
    check_decay_rate(decay_rate, leading)
    rate = decay_rate.to(dtype)[..., None, None]

    outputs = []
    length = value.shape[-2]
    for start in range(0, max(length, 1), chunk):
        block = slice(start, min(start + chunk, length))
        query, key, token = (x[..., block, :].to(dtype) for x in (query_features, key_features, value))
        index = torch.arange(token.shape[-2], device=value.device)
        since_state = torch.exp(-rate * (index[:, None] + 1))
        until_end = torch.exp(-rate * index.flip(0)[:, None])
        within = torch.exp(-rate * (index[:, None] - index).clamp(min=0)).tril()
        outputs.append((query * since_state) @ state + (query @ key.mT * within) @ token)
        state = state * torch.exp(-rate * len(index)) + (key * until_end).mT @ token
    return torch.cat(outputs, dim=-2), state


def with_ones(value: Tensor) -> Tensor:
    """Append the column of ones whose sums are the denominators: ``[..., V] -> [..., V + 1]``."""
    return torch.cat([value, value.new_ones((*value.shape[:-1], 1))], dim=-1)


def normalise(sums: Tensor, *, eps: float = EPS) -> Tensor:
    """Divide sums ``[..., V + 1]`` by their last column plus ``eps``, giving ``[..., V]``."""
    return sums[..., :-1] / (sums[..., -1:] + eps)


def _check(query_features: Tensor, key_features: Tensor, value: Tensor) -> torch.dtype:
    for name, tensor in (
        ("query_features", query_features),
        ("key_features", key_features),
        ("value", value),
    ):
        if tensor.dim() < 2:
            raise ValueError(f"{name} must be [..., L, .], got shape {list(tensor.shape)}")
    check_same("m", -1, query_features=query_features, key_features=key_features)
    check_same("L", -2, key_features=key_features, value=value)
    return working_dtype(query_features=query_features, key_features=key_features, value=value)
