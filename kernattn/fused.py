"""Positive features of attention in few passes: forward in place, backward from what forward returned.

`content_features` are the positive features of queries or keys, scaled and shifted; `flt_features` those of
queries and keys extended by Fourier features of their positions, without building the extension. The
definitions are `positive_features` and `kernattn.flt.extend`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kernattn._checks import check_heads, check_same, without_autocast, working_dtype
from kernattn.backend import kernels_for
from kernattn.rpe import FourierSamples, phase

_SHORT = (torch.int8, torch.uint8, torch.int16)
"""Integers whose phases are exact in one product."""


@without_autocast
def content_features(
    content: Tensor,
    projection: Tensor,
    *,
    offset: Tensor | None = None,
    shift: Tensor | None = None,
    rescale: bool = False,
) -> Tensor:
    """Positive features of ``x / D^1/4``: ``m^-1/2 exp(W x - |x|^2 / 2 + offset - shift)``.

    Args:
        content: Queries or keys, ``[B, H, L, D]``.
        projection: From `gaussian_projection`, ``[H, m, D]`` or ``[m, D]``.
        offset: ``[B or 1, H or 1, L, m]`` or ``[H, L, m]``.
        shift: Of all features of a token, ``[H or 1, L or 1, 1]``; cancels if rescaled.
        rescale: Divide each token's features by their largest, for queries alone.

    Returns:
        ``[B, H, L, m]``, float32 or float64.

    Raises:
        ValueError: If the widths disagree or a dtype is not floating point.
    """
    check_same("E", -1, x=content, projection=projection)
    check_heads(content, projection=projection)
    dtype = working_dtype(x=content)
    rows = projection.to(dtype) / math.pow(max(content.shape[-1], 1), 0.25)
    offset, shift = (None if x is None else x.to(dtype) for x in (offset, shift))
    features: Tensor = _PositiveFeatures.apply(content.to(dtype), rows, offset, shift, rescale)
    return features


@without_autocast
def flt_features(
    query: Tensor,
    key: Tensor,
    samples: FourierSamples,
    projection: Tensor,
    position: Tensor,
    *,
    key_position: Tensor | None = None,
    prefix: int = 0,
) -> tuple[Tensor, Tensor]:
    """Positive features of queries and keys extended by the Fourier features of their positions.

    ``exp(W_c x - |x|^2 / 2) exp(W_p phi - G / 2)``. Both ``W_p phi`` and ``W_p psi`` are products of small
    matrices with the cosines and sines of the positions, which all rows of the batch share that have the same
    positions.

    Args:
        query: ``[B, H, L, D]``.
        key: ``[B, H, L', D]``.
        samples: Frequencies ``[H, r, l]`` and importance ratios.
        projection: From `gaussian_projection`, ``[H, m, D + 2r]`` or ``[m, D + 2r]``.
        position: Of the queries after the prefix, ``[L - prefix, l]`` or ``[B, L - prefix, l]``.
        key_position: Of the keys; those of the queries by default.
        prefix: Tokens before the others without position: f is 0 between them and any token.

    Returns:
        Features of the queries, each token's divided by their largest, ``[B, H, L, m]``, and of the keys.

    Raises:
        ValueError: If the widths disagree.
    """
    count, width = samples.frequency.shape[1], query.shape[-1]
    if projection.shape[-1] != width + 2 * count:
        raise ValueError(
            f"x and projection disagree on E (axis -1): {width + 2 * count}, {projection.shape[-1]}; "
            f"x is query {list(query.shape)} beside r = {count} samples"
        )
    dtype = working_dtype(query=query, key=key)
    content_rows, position_rows = projection[..., :width], projection[..., width:].to(dtype)
    read, write, half = _mixing(samples, position_rows, dtype)
    waves = _Waves.apply(samples.frequency, position).to(dtype)
    key_waves = waves
    if key_position is not None:
        key_waves = _Waves.apply(samples.frequency, key_position).to(dtype)
    shift = half[:, None, None]
    if prefix:
        shift = _pad(shift.expand(-1, key.shape[-2] - prefix, 1), prefix)
    return (
        content_features(query, content_rows, offset=_pad(waves @ read, prefix), rescale=True),
        content_features(key, content_rows, offset=_pad(key_waves @ write, prefix), shift=shift),
    )


def positions_of(length: int, device: torch.device) -> Tensor:
    """``0, 1, ..., length - 1`` as ``[L, 1]``, in float64, whose products with frequencies are exact here."""
    return torch.arange(length, dtype=torch.float64, device=device)[:, None]


def _mixing(samples: FourierSamples, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices ``[H, 2r, m]`` that take ``[cos, sin]`` to ``W_p phi`` and to ``W_p psi``, and ``G / 2``."""
    count = samples.frequency.shape[1]
    real, imag = (x.double() / count for x in (samples.ratio_real, samples.ratio_imag))
    power = real.square() + imag.square()
    divisor = torch.where(power > 0, power, 1.0) ** 0.25
    root = torch.where(power > 0, divisor, 0.0).to(dtype)[:, None]
    real, imag = ((x / divisor).to(dtype)[:, None] for x in (real, imag))
    first, second = rows[..., :count], rows[..., count:]
    read = torch.cat([first * real + second * imag, second * real - first * imag], dim=-1)
    write = torch.cat([first * root, second * root], dim=-1)
    return read.mT, write.mT, root.square().sum(dim=(-2, -1)) / 2


def _pad(offset: Tensor, prefix: int) -> Tensor:
    if not prefix:
        return offset
    return torch.cat([offset.new_zeros(*offset.shape[:-2], prefix, offset.shape[-1]), offset], dim=-2)


class _PositiveFeatures(torch.autograd.Function):
    """``exp(W x - |x|^2 / (2 sqrt(D)) + offset - shift)`` over ``m^1/2``, or over each token's largest.

    W comes scaled.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, rows: Tensor, offset: Tensor | None, shift: Tensor | None, rescale: bool
    ) -> Tensor:
        kernels = kernels_for(x, *rows.shape[-2:]) if x.dim() == 4 and rows.dim() <= 3 else None
        if kernels is not None:
            if shift is not None:
                offset = -shift if offset is None else offset - shift
            output: Tensor = kernels.positive_features(x, rows, offset, rescale)
            return output
        exponent = x @ rows.mT
        if offset is not None:
            exponent += offset
        if rescale and exponent.shape[-1]:
            exponent -= exponent.amax(dim=-1, keepdim=True)
        else:
            root = math.log(max(rows.shape[-2], 1)) / 2
            lengths = x.square().sum(dim=-1, keepdim=True)
            lengths = lengths.mul_(0.5 / math.sqrt(max(x.shape[-1], 1))).add_(root)
            exponent -= lengths if shift is None else lengths + shift
        return exponent.exp_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, rows, offset, shift, rescale = inputs
        ctx.offset_shape, ctx.shift_shape = (None if y is None else y.shape for y in (offset, shift))
        ctx.rescale = rescale
        ctx.save_for_backward(x, rows, output)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, rows, output = ctx.saved_tensors
        exponent = gradient * output
        x_gradient = rows_gradient = offset_gradient = shift_gradient = None
        total = None if ctx.rescale else exponent.sum(dim=-1, keepdim=True)
        if ctx.needs_input_grad[0]:
            x_gradient = exponent @ rows
            if total is not None:
                x_gradient = torch.addcmul(x_gradient, x, total, value=-1 / math.sqrt(max(x.shape[-1], 1)))
        if ctx.needs_input_grad[1]:
            rows_gradient = _sum_to(exponent.mT @ x, rows.shape)
        if ctx.needs_input_grad[2]:
            offset_gradient = _sum_to(exponent, ctx.offset_shape)
        if ctx.needs_input_grad[3] and total is not None:
            shift_gradient = -_sum_to(total, ctx.shift_shape)
        return x_gradient, rows_gradient, offset_gradient, shift_gradient, None


def _sum_to(gradient: Tensor, shape: torch.Size) -> Tensor:
    """Sum over the axes that were broadcast."""
    if gradient.numel() == math.prod(shape):
        return gradient.reshape(shape)
    return gradient.sum_to_size(shape)


class _Waves(torch.autograd.Function):
    """``[cos, sin](2 pi xi . r)``, ``[..., H, L, 2r]``, with phases exact at any distance."""

    generate_vmap_rule = True

    @staticmethod
    def forward(frequency: Tensor, position: Tensor) -> Tensor:
        if position.is_floating_point() or position.dtype in _SHORT:
            turns = position.double()[..., None, :, :] @ frequency.double().mT
            turns = turns.sub_(turns.round())
        else:
            turns = phase(frequency, position)
        angle = turns.to(frequency.dtype).mul_(2 * math.pi)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        frequency, position, output = ctx.saved_tensors
        cosine, sine = output.chunk(2, dim=-1)
        along, across = gradient.chunk(2, dim=-1)
        angle = 2 * math.pi * (across * cosine - along * sine)
        place = position.to(angle.dtype)[..., None, :, :]
        frequency_gradient = position_gradient = None
        if ctx.needs_input_grad[0]:
            frequency_gradient = _sum_to(angle.mT @ place, frequency.shape)
        if ctx.needs_input_grad[1]:
            position_gradient = (angle @ frequency).sum(dim=-3).to(position.dtype)
        return frequency_gradient, position_gradient
