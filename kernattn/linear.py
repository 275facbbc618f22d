"""The linear-attention engine: bidirectional, chunked causal and one-step forms of one sum.

``out_i = sum_j A_ij v_j / (sum_j A_ij + eps)`` with ``A_ij = (Phi_i . Phi'_j) exp(-decay_rate (i - j))``
never builds A. The denominator is one more value column of ones, so a state is one tensor of shape
``[..., m, V + 1]``. There is no common stabiliser: outputs never depend on other rows of the batch or on the
future.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernattn._checks import check_decay_rate, check_device, check_same, without_autocast, working_dtype
from kernattn.backend import kernels_for

EPS = 1e-20
"""Default guard of a denominator: changes nothing unless every weight has underflowed."""


@without_autocast
def linear_attention(
    query_features: Tensor,
    key_features: Tensor,
    value: Tensor,
    *,
    key_mask: Tensor | None = None,
    eps: float = EPS,
) -> Tensor:
    """Bidirectional linear attention, ``Phi (Phi'^T V) / (Phi (Phi'^T 1) + eps)``.

    Args:
        query_features: ``[..., L, m]``.
        key_features: ``[..., L', m]``.
        value: ``[..., L', V]``.
        key_mask: False where a key is padding, broadcasts to ``[..., L']``; a query without keys reads 0.
        eps: Added to the denominator.

    Returns:
        ``[..., L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    dtype = _check(query_features, key_features, value)
    query, output_dtype = query_features.to(dtype), value.dtype
    key, value = mask_keys(key_features.to(dtype), value.to(dtype), key_mask)
    weight = query @ key.sum(dim=-2)[..., None]
    return (query @ (key.mT @ value) / (weight + eps)).to(output_dtype)


@without_autocast
def linear_sums(
    query_features: Tensor, key_features: Tensor, value: Tensor, *, key_mask: Tensor | None = None
) -> Tensor:
    """Unnormalised bidirectional sums ``sum_j (Phi_i . Phi'_j) v_j``.

    Args:
        query_features: ``[..., L, m]``.
        key_features: ``[..., L', m]``.
        value: ``[..., L', V]``.
        key_mask: False where a key is padding, broadcasts to ``[..., L']``.

    Returns:
        ``[..., L, V]``, float32 or float64.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    dtype = _check(query_features, key_features, value)
    key, value = mask_keys(key_features.to(dtype), value.to(dtype), key_mask)
    return query_features.to(dtype) @ (key.mT @ value)


def causal_linear_attention(
    query_features: Tensor,
    key_features: Tensor,
    value: Tensor,
    *,
    decay_rate: Tensor | None = None,
    chunk: int = 64,
    state: Tensor | None = None,
    key_mask: Tensor | None = None,
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
        key_mask: False where a key is padding, broadcasts to ``[..., L]``; a query without keys reads 0.
        eps: Added to the denominator.

    Returns:
        The outputs ``[..., L, V]`` in the dtype of ``value``, and the state after the last token.

    Raises:
        ValueError: If shapes or dtypes disagree, or ``chunk`` is below 1.
    """
    sums, state = causal_sums(
        query_features,
        key_features,
        with_ones(value),
        decay_rate=decay_rate,
        chunk=chunk,
        state=state,
        key_mask=key_mask,
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
    key_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Unnormalised causal sums ``sum_{j <= i} (Phi_i . Phi'_j) exp(-decay_rate (i - j)) v_j`` in chunks.

    On CUDA in float32 a Triton kernel does the same, with first derivatives alone.

    Args:
        query_features: ``[..., L, m]``.
        key_features: ``[..., L, m]``.
        value: ``[..., L, V]``; leading axes broadcast.
        decay_rate: Per token, non-negative, broadcasts to the leading axes.
        chunk: Tokens handled by one masked matrix product, at least 1.
        state: Sums over the tokens before, ``[..., m, V]``; zeros by default.
        key_mask: False where a key is padding, broadcasts to ``[..., L]``.

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
    if decay_rate is not None:
        check_decay_rate(decay_rate, leading)
        decay_rate = decay_rate.to(dtype)[..., None, None]
    query, key, value = (x.to(dtype) for x in (query_features, key_features, value))
    key, value = mask_keys(key, value, key_mask)
    kernels = kernels_for(value, key.shape[-1])
    if kernels is not None:
        spread = [x.expand(*leading, *x.shape[-2:]) for x in (query, key, value)]
        rate = None if decay_rate is None else decay_rate[..., 0, 0]
        fast: tuple[Tensor, Tensor] = kernels.causal_sums(*spread, rate, state)
        return fast

    outputs = []
    length = value.shape[-2]
    whole = length - length % chunk
    if whole:
        blocks = [torch.unflatten(x[..., :whole, :], -2, (-1, chunk)) for x in (query, key, value)]
        sums, state = _chunk_sums(blocks, decay_rate, state)
        outputs.append(sums.flatten(-3, -2))
    if whole < length or not length:
        rest = [x[..., whole:, :].unsqueeze(-3) for x in (query, key, value)]
        sums, state = _chunk_sums(rest, decay_rate, state)
        outputs.append(sums.squeeze(-3))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-2), state


def _chunk_sums(tokens: list[Tensor], rate: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """Causal sums over ``n`` chunks of ``C`` tokens: ``[..., n, C, .]``, all chunks in one product each."""
    query, key, value = tokens
    size = value.shape[-2]
    scores = query @ key.mT
    keep = None
    if rate is None:
        scores = scores.tril()
    else:
        index = torch.arange(size, device=value.device)
        keep, rate = torch.exp(-rate * size), rate[..., None]
        scores = scores * torch.exp(-rate * (index[:, None] - index).clamp(min=0)).tril()
        query = query * torch.exp(-rate * (index[:, None] + 1))
        key = key * torch.exp(-rate * index.flip(0)[:, None])
    before = []
    for update in (key.mT @ value).unbind(-3):
        before.append(state)
        state = update + (state if keep is None else state * keep)
    return scores @ value + query @ torch.stack(before, dim=-3), state


def mask_keys(key: Tensor, value: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Zero the key features and the values of padding, whatever they hold.

    Args:
        key: ``[..., L, m]``.
        value: ``[..., L, V]``.
        key_mask: False where a key is padding, broadcasts to ``[..., L]``.

    Returns:
        Both, masked.

    Raises:
        ValueError: If the mask is not boolean or does not broadcast.
    """
    if key_mask is None:
        return key, value
    if key_mask.dtype != torch.bool:
        raise ValueError(f"key_mask must be boolean, True where a key takes part, got {key_mask.dtype}")
    shape = tuple(key.shape[:-1])
    padded = (1,) * (len(shape) - key_mask.dim()) + tuple(key_mask.shape)
    if len(padded) != len(shape) or any(a not in (1, b) for a, b in zip(padded, shape, strict=True)):
        raise ValueError(f"key_mask must broadcast to [..., L] = {list(shape)}, got {list(key_mask.shape)}")
    return mask_tokens(key, key_mask), mask_tokens(value, key_mask)


def mask_tokens(tokens: Tensor, key_mask: Tensor | None) -> Tensor:
    """Zero padding before anything is computed from it, so that no gradient passes through what it holds.

    Args:
        tokens: ``[..., L, D]``.
        key_mask: False where a token is padding, broadcasts to ``[..., L]``.
    """
    return tokens if key_mask is None else tokens.masked_fill(~key_mask[..., None], 0.0)


def with_ones(value: Tensor) -> Tensor:
    """Append the column of ones whose sums are the denominators: ``[..., V] -> [..., V + 1]``."""
    return torch.cat([value, value.new_ones((*value.shape[:-1], 1))], dim=-1)


def normalise(sums: Tensor, *, eps: float = EPS) -> Tensor:
    """Divide sums ``[..., V + 1]`` by their last column plus ``eps``, giving ``[..., V]``."""
    numerator, denominator = torch.split(sums, [sums.shape[-1] - 1, 1], dim=-1)
    return numerator / (denominator + eps)


def _check(query_features: Tensor, key_features: Tensor, value: Tensor) -> torch.dtype:
    for name, tensor in (
        ("query_features", query_features),
        ("key_features", key_features),
        ("value", value),
    ):
        if tensor.dim() < 2:
            raise ValueError(f"{name} must be [..., L, .], got shape {list(tensor.shape)}")
    check_device(query_features=query_features, key_features=key_features, value=value)
    check_same("m", -1, query_features=query_features, key_features=key_features)
    check_same("L", -2, key_features=key_features, value=value)
    return working_dtype(query_features=query_features, key_features=key_features, value=value)
