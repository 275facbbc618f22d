"""What Celo keeps of a tensor's gradients, and the features that its network sees of each element.

Tensors are in the publisher's layout, ``[*S]``; statistics have their decay in front, ``[3, *S]``. Row and
column statistics keep the axis that they average over at size 1, so that they broadcast.
"""

from __future__ import annotations

import torch
from torch import Tensor

DECAYS = (0.9, 0.99, 0.999)
FEATURES = 30
GRADIENT_LIMIT = 1000.0

Moments = dict[str, Tensor]


def factored_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The axes that row and column statistics average over: the largest and the next; None below 2 axes.

    Of axes of one size the later counts as larger.
    """
    if len(shape) < 2:
        return None
    by_size = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return by_size[-1], by_size[-2]


def first_moments(tensor: Tensor) -> Moments:
    """Statistics before the first gradient, of a tensor of at least one axis."""
    shape = tensor.shape
    moments = {"momentum": tensor.new_zeros(3, *shape), "second_moment": tensor.new_zeros(shape)}
    axes = factored_axes(tuple(shape))
    if axes is None:
        return {**moments, "diagonal": tensor.new_zeros(3, *shape)}
    for name, averaged in zip(("row", "column"), axes, strict=True):
        kept = [1 if axis == averaged else size for axis, size in enumerate(shape)]
        moments[name] = tensor.new_zeros(3, *kept)
    return moments


def write(moments: Moments, gradient: Tensor) -> None:
    """Take in a gradient, in place.

    Args:
        moments: What `first_moments` gave.
        gradient: ``[*S]``, at most `GRADIENT_LIMIT` in magnitude.
    """
    decay = torch.tensor(DECAYS, device=gradient.device).view(3, *[1] * gradient.dim())
    square = gradient * gradient
    _average(moments["momentum"], gradient, decay)
    _average(moments["second_moment"], square, decay[-1])
    square = square + 1e-30
    axes = factored_axes(tuple(gradient.shape))
    if axes is None:
        _average(moments["diagonal"], square, decay)
        return
    for name, averaged in zip(("row", "column"), axes, strict=True):
        _average(moments[name], square.mean(averaged, keepdim=True), decay)


def features(parameter: Tensor, gradient: Tensor, moments: Moments, *, out: Tensor | None = None) -> Tensor:
    """All features of every element, before they are normalised.

    Args:
        parameter: Before the step, ``[*S]``.
        gradient: The gradient that was written last, ``[*S]``.
        moments: With this gradient in them.
        out: Where to put them, ``[30, *S]``; fresh pages cost more than the arithmetic.

    Returns:
        ``[30, *S]``, in the units that they come in.
    """
    momentum, second = moments["momentum"], moments["second_moment"]
    scale = (second + 1e-6).rsqrt()
    axes = factored_axes(tuple(gradient.shape))
    if axes is None:
        row = column = moments["diagonal"]
        factored_gradient = gradient * _floored_rsqrt(row + 1e-9)
        factored_momentum = momentum * row.rsqrt()
    else:
        row, column = moments["row"], moments["column"]
        share = row / (row.mean(axes[1] + 1, keepdim=True) + 1e-9)
        factor = _floored_rsqrt(share) * _floored_rsqrt(column)
        factored_gradient, factored_momentum = gradient * factor, momentum * factor
    groups = (
        gradient[None],
        gradient.clamp(-0.1, 0.1)[None],
        parameter[None],
        momentum,
        second[None],
        momentum * scale,
        scale[None],
        factored_gradient,
        (gradient * scale)[None],
        row,
        column,
        (row + 1e-8).rsqrt(),
        (column + 1e-8).rsqrt(),
        factored_momentum,
    )
    return torch.cat([group.expand(-1, *gradient.shape) for group in groups], out=out)


def direction_and_size(raw: Tensor, layers: tuple[tuple[Tensor, Tensor], ...]) -> Tensor:
    """Run the network on features divided by their RMS over the tensor.

    Args:
        raw: Features, ``[30, N]``.
        layers: Weights and biases.

    Returns:
        Direction, logarithm of the size in thousandths, and one output without a use, ``[3, N]``.
    """
    (first, bias), *others = layers
    mean_square = torch.linalg.vector_norm(raw, dim=1, keepdim=True).square() / raw.shape[1]
    normaliser = (mean_square + 1e-5).rsqrt()
    hidden = torch.addmm(bias[:, None], (first * normaliser).T, raw)
    for weight, bias in others:
        hidden = torch.addmm(bias[:, None], weight.T, hidden.relu_())
    return hidden


def _average(mean: Tensor, value: Tensor, decay: Tensor) -> None:
    mean.mul_(decay).add_((1 - decay) * value)


def _floored_rsqrt(value: Tensor) -> Tensor:
    return value.clamp(min=1e-9).rsqrt()
