"""What a gradient says, without units: features that decide how memories write and read."""

from math import exp

import torch
from torch import Tensor
from torch.nn.functional import softsign

SMALLEST = 10.0
"""Gradients below ``exp(-10)`` of their usual size count as small; ``p`` of Andrychowicz et al."""
LARGEST = 10.0


def root(second: Tensor) -> Tensor:
    """Root of the second moment, positive, with a finite derivative at 0."""
    return second.clamp_min(torch.finfo(second.dtype).tiny).sqrt()


def relative(value: Tensor, usual: Tensor) -> Tensor:
    """A value in units of the usual size of gradients, within [-10, 10]."""
    return (value / usual).clamp(-LARGEST, LARGEST)


def preprocess(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Size and sign of a gradient as two numbers of about [-1, 1].

    ``(log |z| / p, sgn z)`` where ``|z| >= exp(-p)``, else ``(-1, exp(p) z)``, with ``p = 10``.

    Args:
        ratio: ``z``, the gradient in units of its usual size, any shape.

    Returns:
        The size, an even function, and the sign, an odd one.

    References:
        Andrychowicz et al., 2016, appendix A, https://arxiv.org/abs/1606.04474
    """
    size = ratio.abs().clamp_min(exp(-SMALLEST)).log() / SMALLEST
    return size, (ratio * exp(SMALLEST)).clamp(-1.0, 1.0)


def agreement(left: Tensor, right: Tensor) -> Tensor:
    """``softsign(left right)``: near 1 where two ratios are large and of one sign; even in the history."""
    return softsign(left * right)
