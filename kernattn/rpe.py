"""Relative position functions, ``f(z) = Re integral g(xi) exp(2 pi i xi . z) d xi``, and samples of spectra.

``f`` is an additive log-mask. It tends to 0 at long lags, so that the mask ``exp(f)`` tends to 1: it raises
or lowers near tokens and does not forget far ones, which takes a decay.

Samples ``xi_s ~ p`` with the ratios ``rho_s = g(xi_s) / p(xi_s)`` estimate f without bias. What they cost is
their amplitude ``G = mean_s |rho_s|``, whose expectation is ``|g|_1`` under every p.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from kernattn._checks import check_device, check_same
from kernattn.reference import pairwise_lags

LOUD = 0.5
"""Amplitude a head above which positive features become noisy; see `amplitude_error`."""

_INTEGER_BITS = {torch.uint8: 8, torch.int8: 8, torch.int16: 16, torch.int32: 32, torch.int64: 64}


class FourierSamples(NamedTuple):
    """Frequencies ``xi_s ~ p`` and importance ratios ``rho_s = g(xi_s) / p(xi_s)``.

    Attributes:
        frequency: ``[H, r, l]``, in turns per unit of position.
        ratio_real: Real part of rho, ``[H, r]``; negative where g is.
        ratio_imag: Imaginary part, ``[H, r]``; the odd part of f comes from here.
    """

    frequency: Tensor
    ratio_real: Tensor
    ratio_imag: Tensor

    @property
    def amplitude(self) -> Tensor:
        """``G = mean_s |rho_s|``, ``[H]``: the squared length of the features of every position."""
        return torch.hypot(self.ratio_real, self.ratio_imag).mean(dim=-1)

    def log_mask(self, lag: Tensor) -> Tensor:
        """Estimate ``f`` without bias: ``(1/r) Re sum_s rho_s exp(2 pi i xi_s . z)``.

        Args:
            lag: ``z``, ``[..., l]``.

        Returns:
            ``[H, ...]``.
        """
        turns = phase(self.frequency, lag.reshape(-1, lag.shape[-1])).to(self.frequency.dtype)
        angle = 2 * math.pi * turns
        terms = self.ratio_real[:, None] * angle.cos() - self.ratio_imag[:, None] * angle.sin()
        return terms.mean(dim=-1).reshape(-1, *lag.shape[:-1])


@runtime_checkable
class RelativePosition(Protocol):
    """What attention needs of a relative position function."""

    @property
    def heads(self) -> int:
        """``H``."""

    @property
    def dimension(self) -> int:
        """``l``, of positions."""

    def log_mask(self, lag: Tensor) -> Tensor:
        """Evaluate ``f`` in nats at lags ``[..., l]``, as ``[H, ...]``."""

    def amplitude(self) -> Tensor:
        """``|g|_1``, or a bound of it where that has no closed form, ``[H]``: what to expect of G."""

    def sample(
        self,
        count: int,
        *,
        stratified: bool = False,
        orthogonal: bool = False,
        generator: torch.Generator | None = None,
    ) -> FourierSamples:
        """Draw ``count`` frequencies a head and their ratios, an unbiased estimate of f."""


def relative_log_mask(
    relative: RelativePosition, position: Tensor, key_position: Tensor | None = None
) -> Tensor:
    """Evaluate ``f(r_i - r_j)`` for all pairs, for the quadratic reference.

    Args:
        relative: The position function.
        position: Of the queries, ``[L, l]`` or ``[B, L, l]``.
        key_position: Of the keys, ``[L', l]`` or ``[B, L', l]``; those of the queries by default.

    Returns:
        ``[H, L, L']``, or ``[B, H, L, L']`` for positions of their own in each row of the batch.
    """
    mask = relative.log_mask(pairwise_lags(position, key_position))
    return mask.movedim(0, -3)


def amplitude_error(amplitude: Tensor, features: int) -> Tensor:
    """Relative standard deviation of ``m`` positive features at lag 0: ``sqrt((exp(4 G) - 1) / m)``.

    Args:
        amplitude: ``G``, any shape.
        features: ``m``, independent rows.

    Returns:
        The same shape.
    """
    return torch.expm1(4 * amplitude).sqrt() / math.sqrt(features)


def warn_of_amplitude(amplitude: Tensor, *, features: int) -> None:
    """Warn if a head's amplitude is above 0.5, where positive features become noisy.

    Args:
        amplitude: ``G`` of each head, ``[H]``, of a spectrum or of its samples.
        features: ``m``.
    """
    largest = amplitude.detach().double().max() if amplitude.numel() else torch.zeros(())
    if float(largest) > LOUD:
        error = float(amplitude_error(largest, max(features, 1)))
        warnings.warn(
            f"the amplitude G = {float(largest):.3g} of a head is above {LOUD}: the relative standard "
            f"deviation of {features} positive features is about {error:.0%}. Use a smaller position "
            "function, more features, a decay for forgetting, or nprf_attention, whose mask is exact.",
            UserWarning,
            stacklevel=2,
        )


def phase(frequency: Tensor, position: Tensor) -> Tensor:
    """Phases ``xi . r`` modulo 1, in turns and float64.

    Integer positions are taken digit by digit, because shifting a frequency by whole digits and dropping its
    whole turns are both exact: the error stays near 1e-12 turns however far the position. Narrow integers
    need fewer digits.

    Args:
        frequency: ``[H, r, l]``, in turns per unit of position.
        position: ``[..., L, l]``, integer or floating point.

    Returns:
        ``[..., H, L, r]`` in [-1/2, 1/2].

    Raises:
        ValueError: If shapes or devices disagree.
    """
    if frequency.dim() != 3:
        raise ValueError(f"frequency must be [H, r, l], got shape {list(frequency.shape)}")
    if position.dim() < 2:
        raise ValueError(f"position must be [..., L, l], got shape {list(position.shape)}")
    check_same("l", -1, frequency=frequency, position=position)
    check_device(frequency=frequency, position=position)
    turns = frequency.double()
    if position.is_floating_point():
        return _nearest(_products(turns, position.double()))
    if position.dtype not in _INTEGER_BITS:
        raise ValueError(f"position must be integer or floating point, got {position.dtype}")
    digit_bits = 24 if frequency.dtype == torch.float32 else 12  # products exact, or nearly, in float64
    rest, sign, bits = position.abs(), position.sign(), _INTEGER_BITS[position.dtype]
    total = turns.new_zeros(())
    while bits > 0:
        digit = rest % 2**digit_bits if bits > digit_bits else rest
        total = _nearest(total + _products(turns, (sign * digit).double()))
        bits -= digit_bits
        if bits > 0:
            rest = rest >> digit_bits
            turns = _nearest(turns * 2**digit_bits)
    return total


def _products(turns: Tensor, position: Tensor) -> Tensor:
    """Inner products of ``[H, r, l]`` and ``[..., L, l]`` without whole turns, ``[..., H, L, r]``."""
    shape = (*position.shape[:-2], turns.shape[0], position.shape[-2], turns.shape[1])
    total = turns.new_zeros(shape)
    for axis in range(turns.shape[-1]):
        total = total + _nearest(turns[:, None, :, axis] * position[..., None, :, None, axis])
    return total


def _nearest(turns: Tensor) -> Tensor:
    """Less whole turns, exactly: what is left lies in [-1/2, 1/2]."""
    return turns - turns.round()
