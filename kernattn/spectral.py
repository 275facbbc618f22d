"""The exact complex spectrum: masks that are sums of damped rotations, with one running sum a frequency.

A mask ``M(lag) = Re sum_s c_s exp((-decay_rate_s + 2 pi i frequency_s) lag)`` is exactly finite-state, so a causal
sum over all the past is a recurrence over a complex number per component. This module holds the definition
(`spectral_mask` with `spectral_attention`), the chunked causal form and the one-step stream.

The stream keeps *averages*: sums divided by ``sum_{d < t} exp(-decay_rate d)``, that is, with Adam's bias
correction built in, so that nothing grows with time or with the half-life.
"""

from __future__ import annotations

import torch
from torch import Tensor


def write_gain(decay_rate: Tensor, step: Tensor) -> Tensor:
    """Weight of the newest token in a bias-corrected exponential average.

    ``1 / sum_{d < step} exp(-decay_rate d) = expm1(-decay_rate) / expm1(-decay_rate * step)``; a rate of 0 gives
    the plain mean, ``1 / step``.

    Args:
        decay_rate: Per step, non-negative; ``-log(beta)`` in Adam's terms.
        step: Tokens so far, the newest included, at least 1; broadcasts against ``decay_rate``.

    Returns:
        The gain in (0, 1], in the broadcast shape.
    """
    rate = decay_rate.clamp(min=torch.finfo(decay_rate.dtype).tiny ** 0.5)
    return torch.expm1(-rate) / torch.expm1(-rate * step)


def advance(average: Tensor, value: Tensor, gain: Tensor) -> Tensor:
    """Take one token into an exponential average with bias correction built in.

    ``average + gain (value - average)``: after ``t`` steps from zero, with `write_gain`,
    ``sum_d exp(-decay_rate d) v_{t-d} / sum_d exp(-decay_rate d)``. A gain of 0 leaves the average as it was.

    Args:
        average: The average so far, any shape; zeros before the first token.
        value: The newest token, finite, broadcasts against ``average``.
        gain: From `write_gain`, broadcasts against ``average``.

    Returns:
        The next average.
    """
    return average + gain * (value - average)


def advance_rotating(
    real: Tensor, imag: Tensor, value: Tensor, gain: Tensor, cosine: Tensor, sine: Tensor
) -> tuple[Tensor, Tensor]:
    """Take one token into an average under a damped rotation.

    ``(1 - gain) R(angle) (real, imag) + gain (value, 0)``: after ``t`` steps from zero ``real + i imag`` is
    ``sum_d exp((-decay_rate + 2 pi i frequency) d) v_{t-d} / sum_d exp(-decay_rate d)``. A gain of 0 at angle 0
    leaves the state as it was.

    Args:
        real: Real part of the average so far, any shape; zeros before the first token.
        imag: Imaginary part, same shape.
        value: The newest token, finite, broadcasts against ``real``.
        gain: From `write_gain`, broadcasts against ``real``.
        cosine: ``cos(2 pi frequency)``, broadcasts against ``real``.
        sine: ``sin(2 pi frequency)``, likewise.

    Returns:
        The next real and imaginary parts.
    """
    keep = 1 - gain
    return keep * (cosine * real - sine * imag) + gain * value, keep * (sine * real + cosine * imag)
