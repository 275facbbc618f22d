"""Skyformer: attention by the Gaussian kernel in Nystroem's approximation.

The matrix C of `gaussian_attention` is a block of the positive definite kernel matrix over queries and keys
together, so that ``s`` landmarks Z among them give ``C ~ K(Q, Z) (K(Z, Z) + ridge I)^-1 K(Z, K)``. The
landmarks of a bidirectional sequence are its own tokens; causal and streaming forms take fixed ones, with
features ``phi(x) = (K(Z, Z) + ridge I)^-1/2 K(Z, x)``. Given the landmarks everything is deterministic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernattn._checks import (
    check_attention,
    check_heads,
    check_key_mask,
    check_rank,
    check_same,
    without_autocast,
)
from kernattn.gaussian import RIDGE, gaussian_kernel, stable_inverse
from kernattn.linear import causal_sums, mask_keys, mask_tokens
from kernattn.performer import scale_content


def draw_landmarks(
    tokens: int, *, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Put the tokens of a sequence in a uniformly random order of preference as landmarks.

    Args:
        tokens: Queries and keys together, ``L + L'``, queries first.
        generator: Source of randomness, on any device.
        device: Of the result; the generator's by default.

    Returns:
        A permutation of ``0, ..., tokens - 1``, ``[tokens]``.

    Raises:
        ValueError: If ``tokens`` is negative.
    """
    if tokens < 0:
        raise ValueError(f"tokens must not be negative, got {tokens}")
    place = torch.device("cpu") if generator is None else generator.device
    return torch.randperm(tokens, generator=generator, device=place).to(place if device is None else device)


@without_autocast
def skyformer_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    order: Tensor,
    count: int,
    ridge: float = RIDGE,
    iterations: int = 6,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Bidirectional Skyformer attention, ``O(L s (D + V) + s^3)``.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L', D]``.
        value: ``[B, H, L', V]``.
        order: From `draw_landmarks`, ``[L + L']``: each sequence's landmarks are its first ``count`` tokens
            in this order, padding left out.
        count: ``s``, the number of landmarks.
        ridge: Added to the diagonal of the landmarks' kernel matrix, positive.
        iterations: Of `stable_inverse`.
        query_mask: False where a query is padding and no landmark, ``[B, L]``.
        key_mask: False where a key is padding, ``[B, L']``; a query without keys reads 0.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes or dtypes disagree or an option is out of range.

    References:
        Chen et al., 2021, https://arxiv.org/abs/2111.00035
    """
    check_attention(query, key, value, causal=False)
    query_keep, key_keep = check_key_mask(query_mask, query), check_key_mask(key_mask, key)
    tokens = query.shape[2] + key.shape[2]
    if tuple(order.shape) != (tokens,):
        raise ValueError(f"order must be [L + L'] = [{tokens}], got {list(order.shape)}")
    if not count > 0:
        raise ValueError(f"count must be at least 1, got {count}")
    query, key = scale_content(query), scale_content(key)
    key = mask_tokens(key, key_keep)
    value_dtype, value = value.dtype, value.to(key.dtype)
    both, masked = torch.cat([query, key], dim=-2), query_mask is not None or key_mask is not None
    if masked:
        keep = _both_masks(query, key, query_keep, key_keep)
        landmarks, chosen = _choose(both.masked_fill(~keep[..., None], 0.0), order, keep, count)
    else:
        landmarks, chosen = both[..., order[:count], :], None
    left, right, middle = (gaussian_kernel(x, landmarks) for x in (query, key, landmarks))
    if chosen is not None:
        absent = ~chosen[..., None, :]
        left, right = left.masked_fill(absent, 0.0), right.masked_fill(absent, 0.0)
        middle = middle.masked_fill(absent | absent.mT, 0.0)
    right, value = mask_keys(right, value, key_keep)
    inverse = stable_inverse(middle, ridge=ridge, iterations=iterations)
    return (left @ (inverse @ (right.mT @ value))).to(value_dtype)


def _both_masks(query: Tensor, key: Tensor, query_keep: Tensor | None, key_keep: Tensor | None) -> Tensor:
    """Which of queries and keys are tokens, ``[B, 1, L + L']``."""
    parts = [
        x.new_ones((x.shape[0], 1, x.shape[2]), dtype=torch.bool) if keep is None else keep
        for x, keep in ((query, query_keep), (key, key_keep))
    ]
    return torch.cat(parts, dim=-1)


def _choose(both: Tensor, order: Tensor, keep: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Each sequence's landmarks ``[B, H, s, D]``, and which of them are tokens, ``[B, 1, s]``."""
    sorted_keep = keep[..., order]
    first = torch.argsort(~sorted_keep, dim=-1, stable=True)[..., :count]
    index = order[first]
    gathered = both.gather(-2, index[..., None].expand(*both.shape[:2], index.shape[-1], both.shape[-1]))
    return gathered, sorted_keep.gather(-1, first)


@without_autocast
def nystrom_features(x: Tensor, landmarks: Tensor, *, ridge: float = RIDGE) -> Tensor:
    """Features of the Gaussian kernel from fixed landmarks: ``(K(Z, Z) + ridge I)^-1/2 K(Z, x)``.

    The root is the triangular one of Cholesky, which gives the same inner products as the symmetric one.

    Args:
        x: ``[..., L, D]``, dimensionless.
        landmarks: ``Z``, ``[..., s, D]``; leading axes broadcast.
        ridge: Added to the diagonal, positive.

    Returns:
        ``[..., L, s]``, of either sign.

    Raises:
        ValueError: If the widths disagree or ``ridge`` is not positive.
    """
    check_same("D", -1, x=x, landmarks=landmarks)
    check_heads(x, landmarks=landmarks)
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, got {ridge}")
    landmarks = landmarks.to(x.dtype)
    middle = gaussian_kernel(landmarks, landmarks)
    identity = torch.eye(middle.shape[-1], dtype=middle.dtype, device=middle.device)
    root = torch.linalg.cholesky(middle + ridge * identity)
    inverse: Tensor = torch.linalg.solve_triangular(root, identity, upper=False)
    return gaussian_kernel(x, landmarks) @ inverse.mT


@without_autocast
def causal_skyformer_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    landmarks: Tensor,
    ridge: float = RIDGE,
    decay_rate: Tensor | None = None,
    chunk: int = 64,
    state: Tensor | None = None,
    key_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Causal Skyformer attention with fixed landmarks, in chunks.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L, D]``.
        value: ``[B, H, L, V]``.
        landmarks: ``[H, s, D]`` or ``[s, D]``, in the units of queries and keys over ``D^1/4``.
        ridge: Added to the diagonal of the landmarks' kernel matrix, positive.
        decay_rate: Per token, ``[H]``, non-negative.
        chunk: Tokens handled by one masked matrix product, at least 1.
        state: Sums over the tokens before, ``[B, H, s, V]``, as returned; zeros by default.
        key_mask: False where a key is padding, ``[B, L]``.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``, and the state after the last token.

    Raises:
        ValueError: If shapes or dtypes disagree or an option is out of range.
    """
    check_attention(query, key, value, causal=True)
    key_mask = check_key_mask(key_mask, key)
    key = mask_tokens(key, key_mask)
    query, key = (nystrom_features(scale_content(x), landmarks, ridge=ridge) for x in (query, key))
    sums, state = causal_sums(
        query, key, value, decay_rate=decay_rate, chunk=chunk, state=state, key_mask=key_mask
    )
    return sums.to(value.dtype), state


def skyformer_step(
    state: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    landmarks: Tensor,
    ridge: float = RIDGE,
    decay_rate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One token of causal Skyformer attention: write it, then read.

    Args:
        state: Sums so far, ``[B, H, s, V]``; zeros before the first token.
        query: ``[B, H, D]``.
        key: ``[B, H, D]``.
        value: ``[B, H, V]``.
        landmarks: ``[H, s, D]`` or ``[s, D]``, the same through the whole stream.
        ridge: Added to the diagonal of the landmarks' kernel matrix, positive.
        decay_rate: Per token, ``[H]``, non-negative; without it the sums grow with the stream.

    Returns:
        ``[B, H, V]`` in the dtype of ``value``, and the next state.

    Raises:
        ValueError: If shapes or dtypes disagree or ``ridge`` is not positive.
    """
    check_rank("[B, H, .]", 3, query=query, key=key, value=value)
    output, state = causal_skyformer_attention(
        query[..., None, :],
        key[..., None, :],
        value[..., None, :],
        landmarks=landmarks,
        ridge=ridge,
        decay_rate=decay_rate,
        chunk=1,
        state=state,
    )
    return output.squeeze(-2), state
