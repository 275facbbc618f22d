"""Linear attention under an exact Toeplitz mask (NPRF-RPE), by the fast Fourier transform.

``A_ij = (phi(q_i) . phi(k_j)) exp(b_{i-j})`` with queries and keys of length 1: a product with A is one
Toeplitz product for each feature and value column, ``O(m V L log L)`` time and ``O(L m V)`` memory. The mask
is exact, of any shape, along one axis of tokens or several (patches of an image in raster order), where only
the kernel is estimated.

The transform errs by a fraction of its *largest* output, so half precision will not do, and a row whose whole
weight is below that error is lost: `nprf_attention` gives 0 for it. The matrix itself, ``O(L^2 (m + V))``,
is exact for such rows too, and faster for short sequences: up to about as many tokens as ``m V``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kernattn._checks import (
    check_attention,
    check_device,
    check_key_mask,
    without_autocast,
    working_dtype,
)
from kernattn.features import positive_features
from kernattn.linear import EPS, mask_keys, with_ones
from kernattn.reference import kernel_attention

Method = Literal["auto", "fft", "direct"]

DIRECT_LENGTH = 2048
"""Longest sequence for which ``auto`` builds the matrix, where features times value columns are as many."""


def grid_lags(shape: Sequence[int], *, device: torch.device | str | None = None) -> Tensor:
    """Lags of tokens on a grid, ``[2 L_1 - 1, ..., 2 L_l - 1, l]``, from ``1 - L_j`` to ``L_j - 1`` an axis.

    The table ``relative.log_mask(grid_lags(shape))`` is the ``log_bias`` of `nprf_attention`. An axis without
    tokens has no lags.
    """
    axes = [torch.arange(min(1 - length, length), length, device=device) for length in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def toeplitz_matrix(coefficients: Tensor, *, axes: int = 1) -> Tensor:
    """The matrix ``M_ij = c_{i-j}`` of tokens on a grid in raster order.

    Args:
        coefficients: ``c``, ``[..., 2 L_1 - 1, ..., 2 L_l - 1]``, lag 0 in the middle of every axis; as
            `grid_lags`, an axis without tokens has none.
        axes: ``l``.

    Returns:
        ``[..., L, L]`` with ``L = L_1 ... L_l``.

    Raises:
        ValueError: If an axis of lags is even.
    """
    shape = _grid_shape(coefficients, axes)
    index = torch.zeros(1, 1, dtype=torch.int64, device=coefficients.device)
    for length in shape:
        token = torch.arange(length, device=coefficients.device)
        lag = token[:, None] - token + length - 1
        index = index[:, None, :, None] * (2 * length - 1) + lag[None, :, None, :]
        index = index.flatten(0, 1).flatten(1, 2)
    return coefficients.flatten(-axes)[..., index]


@without_autocast
def toeplitz_product(coefficients: Tensor, x: Tensor, *, axes: int = 1) -> Tensor:
    """Products ``y_i = sum_j c_{i-j} x_j`` by the fast Fourier transform, ``O(L log L)``.

    Args:
        coefficients: ``c``, ``[..., 2 L_1 - 1, ..., 2 L_l - 1]``, lag 0 in the middle of every axis.
        x: ``[..., L_1, ..., L_l]``; leading axes broadcast.
        axes: ``l``.

    Returns:
        The shape of ``x``, float32 or float64. Its error is a fraction of its largest element.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    shape = _grid_shape(coefficients, axes)
    if tuple(x.shape[x.dim() - axes :]) != shape:
        raise ValueError(
            f"x must be [..., {', '.join(map(str, shape))}] beside coefficients "
            f"{list(coefficients.shape)}, got {list(x.shape)}"
        )
    dtype = working_dtype(coefficients=coefficients, x=x)
    if 0 in x.shape:
        return x.to(dtype)
    return _convolve(_transform(coefficients.to(dtype), shape), x.to(dtype), shape)


@without_autocast
def nprf_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    log_bias: Tensor,
    projection: Tensor,
    causal: bool = False,
    method: Method = "auto",
    key_mask: Tensor | None = None,
    block: int = 16,
    eps: float = EPS,
) -> Tensor:
    """Attention with positive features of unit queries and keys under an exact relative mask.

    ``out = A V / (A 1)``, ``A_ij = (phi(q_i / |q_i|) . phi(k_j / |k_j|)) exp(b_{i-j})``; causal: ``A_ij = 0``
    for ``j > i`` in raster order. By the FFT the past is independent of the future to rounding only, and a
    row gives 0 if its weights sum to less than the rounding, about 1e-6 of the root mean square weight in
    float32 times the root of L.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L, D]``.
        value: ``[B, H, L, V]``.
        log_bias: ``b`` in nats, ``[H, 2 L_1 - 1, ..., 2 L_l - 1]`` for tokens on a grid of ``L = L_1 ...
            L_l``, lag 0 in the middle of every axis; -inf forbids a lag.
        projection: From `gaussian_projection`, ``[H, m, D]`` or ``[m, D]``.
        causal: Whether a token sees only itself and the past.
        method: ``fft``, ``direct`` (the L x L matrix), or ``auto``: direct up to ``m V`` tokens,
            and at most 2,048.
        key_mask: False where a key is padding, ``[B, L]``; a query without keys reads 0.
        block: Features transformed at a time, at least 1; bounds the working memory.
        eps: Added to the denominator.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes, dtypes or devices disagree, or an option is unknown.

    References:
        Luo et al., 2021, https://arxiv.org/abs/2106.12566
    """
    check_attention(query, key, value, causal=True)
    check_device(query=query, log_bias=log_bias, projection=projection)
    if query.shape[-2] == 0:
        return value
    axes = log_bias.dim() - 1
    if axes < 1 or log_bias.shape[0] not in (1, query.shape[1]):
        raise ValueError(
            f"log_bias must be [H, 2 L_1 - 1, ...] with H = {query.shape[1]}, got {list(log_bias.shape)}"
        )
    shape = _grid_shape(log_bias, axes)
    if math.prod(shape) != query.shape[-2]:
        raise ValueError(
            f"log_bias {list(log_bias.shape)} is of {' x '.join(map(str, shape))} tokens, and query has "
            f"L = {query.shape[-2]} (axis 2): {list(query.shape)}"
        )
    if method not in ("auto", "fft", "direct"):
        raise ValueError(f"method must be auto, fft or direct, got {method!r}")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    dtype = working_dtype(query=query, key=key, value=value)
    features = [positive_features(_unit(x.to(dtype)), projection) for x in (query, key)]
    bias = _past(log_bias.to(dtype), shape) if causal else log_bias.to(dtype)
    keep = check_key_mask(key_mask, key)
    features[1], value = mask_keys(features[1], value, keep)
    longest = min(DIRECT_LENGTH, features[0].shape[-1] * value.shape[-1])
    if method == "direct" or (method == "auto" and query.shape[-2] <= longest):
        weights = features[0] @ features[1].mT * _mask(bias, axes, keep)
        return kernel_attention(weights, value, eps=eps)
    return _by_fft(features[0], features[1], value.to(dtype), bias, block, eps).to(value.dtype)


def _by_fft(
    query_features: Tensor, key_features: Tensor, value: Tensor, bias: Tensor, block: int, eps: float
) -> Tensor:
    """The attention from features ``[B, H, L, m]``, some features at a time."""
    shape = _grid_shape(bias, bias.dim() - 1)
    if value.numel() == 0:
        return value
    mask = torch.exp(bias - _largest(bias.flatten(1)).view(-1, *[1] * len(shape)))
    batch = value.shape[:2]
    spectrum = _transform(mask, shape)[:, None, None]
    columns = with_ones(value).mT[:, :, None].reshape(*batch, 1, -1, *shape)
    sums = value.new_zeros(())
    for start in range(0, query_features.shape[-1], block):
        query, key = (x[..., start : start + block].mT[:, :, :, None] for x in (query_features, key_features))
        product = _convolve(spectrum, key.reshape(*batch, -1, 1, *shape) * columns, shape).flatten(
            -len(shape)
        )
        product = torch.cat([product[..., :-1, :], product[..., -1:, :].clamp(min=0)], dim=-2)
        sums = sums + (query * product).sum(dim=2)
    steps = math.log2(math.prod(_padded(shape)))
    norms = key_features.norm(dim=-2, keepdim=True) * mask.flatten(1).norm(dim=-1)[:, None, None]
    rounding = steps * torch.finfo(value.dtype).eps * (query_features * norms).sum(dim=-1).detach()
    weight = sums[..., -1:, :]
    seen = weight > rounding[..., None, :]
    return torch.where(seen, sums[..., :-1, :] / (torch.where(seen, weight, 1.0) + eps), 0.0).mT


def _transform(coefficients: Tensor, shape: tuple[int, ...]) -> Tensor:
    spectrum: Tensor = torch.fft.rfftn(coefficients, s=_padded(shape), dim=_last(shape))
    return spectrum


def _convolve(spectrum: Tensor, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``y_i = sum_j c_{i-j} x_j`` from the transform of c, along the last axes."""
    padded, dims = _padded(shape), _last(shape)
    y: Tensor = torch.fft.irfftn(spectrum * torch.fft.rfftn(x, s=padded, dim=dims), s=padded, dim=dims)
    for dim, length in zip(dims, shape, strict=True):
        y = y.narrow(dim, length - 1, length)
    return y


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Lengths of the circulant transform: powers of two above ``2 L - 1``, whose wrap misses what is kept."""
    return tuple(2 ** (2 * length - 2).bit_length() for length in shape)


def _last(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


def _grid_shape(coefficients: Tensor, axes: int) -> tuple[int, ...]:
    sizes = coefficients.shape[coefficients.dim() - axes :]
    if axes < 1 or len(sizes) < axes or any(size and size % 2 == 0 for size in sizes):
        raise ValueError(
            f"an axis of lags must have 2 L - 1 entries, an odd number, got {list(coefficients.shape)} "
            f"with the last {axes} of lags"
        )
    return tuple((size + 1) // 2 for size in sizes)


def _past(bias: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Forbid lags whose first element that is not 0 is negative: the future in raster order."""
    future = torch.zeros((), dtype=torch.bool, device=bias.device)
    undecided = torch.ones((), dtype=torch.bool, device=bias.device)
    for lag in grid_lags(shape, device=bias.device).unbind(dim=-1):
        future = future | (undecided & (lag < 0))
        undecided = undecided & (lag == 0)
    return bias.masked_fill(future, -torch.inf)


def _mask(bias: Tensor, axes: int, keep: Tensor | None) -> Tensor:
    """``exp(b_{i-j})`` over its largest in the row, 0 for padding: ``[H, L, L]`` or ``[B, H, L, L]``."""
    matrix = toeplitz_matrix(bias, axes=axes)
    if keep is not None:
        matrix = matrix.masked_fill(~keep[..., None, :], -torch.inf)
    return torch.exp(matrix - _largest(matrix))


def _largest(bias: Tensor) -> Tensor:
    """Largest of the last axis, kept, as a constant, and 0 where all is -inf or nothing is there."""
    if bias.shape[-1] == 0:
        return bias.new_zeros((*bias.shape[:-1], 1))
    largest = bias.detach().amax(dim=-1, keepdim=True)
    return largest.masked_fill(largest == -torch.inf, 0.0)


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + torch.finfo(x.dtype).tiny ** 0.5)
