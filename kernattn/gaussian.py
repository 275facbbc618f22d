"""Attention by the Gaussian kernel without row normalisation, and the stable inverse of kernel matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from kernattn._checks import check_attention, check_key_mask, without_autocast
from kernattn.performer import scale_content

RIDGE = 1e-3


def gaussian_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Evaluate ``exp(-|x_i - y_j|^2 / 2)``.

    Args:
        x: ``[..., L, D]``, dimensionless.
        y: ``[..., L', D]``.

    Returns:
        ``[..., L, L']``, in [0, 1].
    """
    lengths = [z.square().sum(dim=-1) / 2 for z in (x, y)]
    exponent = x @ y.mT - lengths[0][..., :, None] - lengths[1][..., None, :]
    return torch.exp(exponent.clamp(max=0))


@without_autocast
def gaussian_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    key_mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """The definition, O(L^2): ``out_i = sum_j exp(-|q_i - k_j|^2 / (2 sqrt(D))) v_j``.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L', D]``, ``L' = L`` if causal.
        value: ``[B, H, L', V]``.
        key_mask: False where a key is padding, ``[B, L']``.
        causal: Whether a token sees only itself and the past.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    check_attention(query, key, value, causal=causal)
    key_mask = check_key_mask(key_mask, key)
    weights = gaussian_kernel(scale_content(query), scale_content(key))
    if causal:
        weights = weights.tril()
    if key_mask is not None:
        weights = weights.masked_fill(~key_mask[..., None, :], 0.0)
    return (weights @ value.to(weights.dtype)).to(value.dtype)


def stable_inverse(matrix: Tensor, *, ridge: float = RIDGE, iterations: int = 6) -> Tensor:
    """Approximate ``(M + ridge I)^-1`` of kernel matrices by matrix products alone.

    With ``d = (M + ridge I) 1`` the matrix ``A = d^-1/2 (M + ridge I) d^-1/2`` has eigenvalues in (0, 1],
    and ``V <- V (13 I - A V (15 I - A V (7 I - A V))) / 4`` converges to its inverse from ``A^T`` over its
    largest column sum, with a scale of each matrix's own. An eigenvalue ``x`` of A takes about
    ``log(x^-2) / log(13 / 4)`` iterations; after fewer, the part of the inverse that belongs to it is damped.

    Args:
        matrix: ``M``, ``[..., s, s]``, symmetric, positive semidefinite, entries non-negative.
        ridge: Added to the diagonal, positive.
        iterations: Steps of the iteration, at least 1.

    Returns:
        ``[..., s, s]``.

    Raises:
        ValueError: If an option is out of range or the matrix is not square.

    References:
        Chen et al., 2021, https://arxiv.org/abs/2111.00035
    """
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, got {ridge}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    if matrix.dim() < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix must be [..., s, s], got {list(matrix.shape)}")
    if not matrix.shape[-1]:
        return matrix
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    raised = matrix + ridge * identity
    root = raised.sum(dim=-1).rsqrt()
    scaled = root[..., :, None] * raised * root[..., None, :]
    inverse = scaled.mT / scaled.sum(dim=-2).amax(dim=-1)[..., None, None]
    for _ in range(iterations):
        product = scaled @ inverse
        inner = 15 * identity - product @ (7 * identity - product)
        inverse = inverse @ (13 * identity - product @ inner) / 4
    return root[..., :, None] * inverse * root[..., None, :]
