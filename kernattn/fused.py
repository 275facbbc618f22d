"""Positive features of extended queries and keys without building the extension."""

from __future__ import annotations

import torch
from torch import Tensor

from kernattn._checks import check_same, without_autocast, working_dtype
from kernattn.features import positive_features
from kernattn.performer import scale_content


@without_autocast
def extended_features(
    content: Tensor, fourier: Tensor, projection: Tensor, *, rescale: bool = False
) -> Tensor:
    """Positive features of ``[x / D^1/4, fourier]``: those of the content, times gains of the position.

    ``exp(W_c x - |x|^2 / 2) exp(W_p phi - |phi|^2 / 2)``; the second exponent is worked out once for all rows
    of the batch that share their positions.

    Args:
        content: Queries or keys, ``[B, H, L, D]``.
        fourier: ``phi`` for queries, ``psi`` for keys, ``[H, L, 2r]`` or ``[B, H, L, 2r]``.
        projection: From `gaussian_projection`, ``[H, m, D + 2r]`` or ``[m, D + 2r]``.
        rescale: Divide each token's features by their largest, for queries alone.

    Returns:
        ``[B, H, L, m]``, float32 or float64.

    Raises:
        ValueError: If the widths or lengths disagree.
    """
    width = content.shape[-1]
    if projection.shape[-1] != width + fourier.shape[-1]:
        raise ValueError(
            f"projection must be [..., m, D + 2r] with D = {width} and 2r = {fourier.shape[-1]}, "
            f"got {list(projection.shape)}"
        )
    check_same("L", -2, content=content, fourier=fourier)
    dtype = working_dtype(content=content)
    fourier, projection = fourier.to(dtype), projection.to(dtype)
    content_rows, position_rows = projection[..., :width], projection[..., width:]
    offset = fourier @ position_rows.mT - fourier.square().sum(dim=-1, keepdim=True) / 2
    return positive_features(scale_content(content), content_rows, offset=offset, rescale=rescale)


def pad_prefix(fourier: Tensor, prefix: int) -> Tensor:
    """Put zeros before features ``[..., L, 2r]`` for tokens without a position: their ``f`` is 0 to all."""
    if not prefix:
        return fourier
    return torch.cat([fourier.new_zeros(*fourier.shape[:-2], prefix, fourier.shape[-1]), fourier], dim=-2)
