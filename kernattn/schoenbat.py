"""SchoenbAt: normalised attention by kernels of the inner product, in random Maclaurin features.

Queries and keys are brought to one length, the ``radius``, and outputs through a power that keeps their sign
(ppSBN, `centre_and_scale` and `signed_power`). Estimates can be negative, but F itself is at least
``F(-radius^2) > 0``: that is each key's least weight, and denominators are guarded with it as
`kernattn.guarded` says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernattn._checks import check_attention, check_key_mask, check_rank, without_autocast
from kernattn.guarded import causal_guarded_attention, guarded_attention, guarded_step
from kernattn.linear import EPS
from kernattn.maclaurin import MaclaurinSamples, centre_and_scale, maclaurin_features, maclaurin_kernel


@without_autocast
def schoenbat_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    samples: MaclaurinSamples,
    kernel: str = "exp",
    radius: float = 0.6,
    key_mask: Tensor | None = None,
    eps: float = EPS,
) -> Tensor:
    """Bidirectional SchoenbAt attention, ``O(L m (D + V))``; the power after it is `signed_power`.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L', D]``.
        value: ``[B, H, L', V]``.
        samples: From `draw_maclaurin` for this kernel, signs ``[H, ., D]`` or ``[., D]``.
        kernel: One of `KERNELS`.
        radius: Length that queries and keys are brought to; ``1 / radius^2`` is the temperature.
        key_mask: False where a key is padding, ``[B, L']``; a query without keys reads 0.
        eps: Added to the denominator.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes or dtypes disagree, or the kernel or radius is refused.
    """
    check_attention(query, key, value, causal=False)
    key_mask = check_key_mask(key_mask, key)
    features = _features(query, key, samples, kernel, radius)
    return guarded_attention(features[0], features[1], value, features[2], key_mask=key_mask, eps=eps)


@without_autocast
def causal_schoenbat_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    samples: MaclaurinSamples,
    kernel: str = "exp",
    radius: float = 0.6,
    decay_rate: Tensor | None = None,
    chunk: int = 64,
    state: Tensor | None = None,
    key_mask: Tensor | None = None,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """Causal SchoenbAt attention in chunks.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L, D]``.
        value: ``[B, H, L, V]``.
        samples: From `draw_maclaurin` for this kernel, signs ``[H, ., D]`` or ``[., D]``.
        kernel: One of `KERNELS`.
        radius: Length that queries and keys are brought to.
        decay_rate: Per token, ``[H]``, non-negative.
        chunk: Tokens handled by one masked matrix product, at least 1.
        state: ``[B, H, m + 1, V + 1]``, as returned; zeros by default.
        key_mask: False where a key is padding, ``[B, L]``; a query without keys reads 0.
        eps: Added to the denominator.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``, and the state after the last token.

    Raises:
        ValueError: If shapes or dtypes disagree, or the kernel or radius is refused.
    """
    check_attention(query, key, value, causal=True)
    key_mask = check_key_mask(key_mask, key)
    features = _features(query, key, samples, kernel, radius)
    return causal_guarded_attention(
        features[0],
        features[1],
        value,
        features[2],
        decay_rate=decay_rate,
        chunk=chunk,
        state=state,
        key_mask=key_mask,
        eps=eps,
    )


@without_autocast
def schoenbat_step(
    state: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    samples: MaclaurinSamples,
    kernel: str = "exp",
    radius: float = 0.6,
    decay_rate: Tensor | None = None,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """One token of causal SchoenbAt attention: write it, then read.

    Args:
        state: ``[B, H, m + 1, V + 1]``, zeros before the first token.
        query: ``[B, H, D]``.
        key: ``[B, H, D]``.
        value: ``[B, H, V]``.
        samples: The same through the whole stream.
        kernel: One of `KERNELS`.
        radius: Length that queries and keys are brought to.
        decay_rate: Per token, ``[H]``, non-negative.
        eps: Added to the denominator.

    Returns:
        ``[B, H, V]`` in the dtype of ``value``, and the next state.

    Raises:
        ValueError: If shapes or dtypes disagree, or the kernel or radius is refused.
    """
    check_rank("[B, H, .]", 3, query=query, key=key, value=value)
    features = _features(query[..., None, :], key[..., None, :], samples, kernel, radius)
    features = [x.squeeze(2) for x in features]
    return guarded_step(state, features[0], features[1], value, features[2], decay_rate=decay_rate, eps=eps)


def _features(
    query: Tensor, key: Tensor, samples: MaclaurinSamples, kernel: str, radius: float
) -> list[Tensor]:
    """Features of queries and keys, and each key's least weight."""
    function = maclaurin_kernel(kernel, radius).function
    left, right = (maclaurin_features(centre_and_scale(x, radius=radius), samples) for x in (query, key))
    least = function(torch.tensor(-(radius**2), dtype=right.dtype, device=right.device))
    return [left, right, least.expand(right.shape[:-1])]
