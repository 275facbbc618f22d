"""The exact complex spectrum: masks that are sums of damped rotations, with one running sum a frequency.

A mask ``M(lag) = Re sum_s c_s exp((-decay_rate_s + 2 pi i frequency_s) lag)`` is exactly finite-state, so a
causal sum over all the past is a recurrence over a complex number per component. This module holds the
definition (`dense_spectral_attention`), the chunked causal form and the one-step stream.

The stream keeps *averages*: sums divided by ``sum_{d < t} exp(-decay_rate d)``, that is, with Adam's bias
correction built in, so that nothing grows with time or with the half-life.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kernattn._checks import (
    check_device,
    check_key_mask,
    check_rank,
    check_same,
    without_autocast,
    working_dtype,
)
from kernattn.linear import EPS, causal_sums, mask_keys, normalise, with_ones
from kernattn.reference import kernel_attention
from kernattn.rpe import phase


def write_gain(decay_rate: Tensor, step: Tensor) -> Tensor:
    """Weight of the newest token in a bias-corrected exponential average.

    ``1 / sum_{d < step} exp(-decay_rate d) = expm1(-decay_rate) / expm1(-decay_rate * step)``; a rate of 0
    gives the plain mean, ``1 / step``.

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
    ``sum_d exp((-decay_rate + 2 pi i frequency) d) v_{t-d} / sum_d exp(-decay_rate d)``. A gain of 0 at angle
    0 leaves the state as it was.

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


@dataclass(frozen=True, eq=False)
class ComplexSpectrum:
    """A mask that is a sum of ``S`` damped rotations a head.

    ``M(lag) = Re sum_s c_s exp((-decay_rate_s + 2 pi i frequency_s) lag)`` for lags of 0 and above.

    Attributes:
        amplitude: ``|c|``, ``[H, S]``; a negative one turns the sign.
        phase: Argument of ``c``, ``[H, S]``, in radians.
        decay_rate: Per token, ``[H, S]``, non-negative.
        frequency: In turns per token, ``[H, S]``.

    Raises:
        ValueError: If the shapes disagree.
    """

    amplitude: Tensor
    phase: Tensor
    decay_rate: Tensor
    frequency: Tensor

    def __post_init__(self) -> None:
        if self.amplitude.dim() != 2:
            raise ValueError(f"amplitude must be [H, S], got shape {list(self.amplitude.shape)}")
        for name in ("phase", "decay_rate", "frequency"):
            shape = getattr(self, name).shape
            if shape != self.amplitude.shape:
                raise ValueError(f"{name} must be [H, S] = {list(self.amplitude.shape)}, got {list(shape)}")

    @classmethod
    def nonnegative(cls, weight: Tensor, decay_rate: Tensor, frequency: Tensor) -> ComplexSpectrum:
        """Make the mask ``sum_s weight_s exp(-decay_rate_s lag) (1 + cos(2 pi frequency_s lag))``.

        It is nowhere negative if no weight is. All arguments are ``[H, S]``; the spectrum has ``2 S``
        components.
        """
        zero = torch.zeros_like(frequency)
        return cls(
            torch.cat([weight, weight], dim=-1),
            torch.cat([zero, zero], dim=-1),
            torch.cat([decay_rate, decay_rate], dim=-1),
            torch.cat([zero, frequency], dim=-1),
        )

    def mask(self, lag: Tensor) -> Tensor:
        """Evaluate M at lags ``[...]``, non-negative, as ``[H, ...]``."""
        lag = lag.to(self.amplitude.dtype)[..., None, None]
        terms = torch.exp(-self.decay_rate * lag) * torch.cos(2 * math.pi * self.frequency * lag + self.phase)
        return (self.amplitude * terms).sum(dim=-1).movedim(-1, 0)


class SpectralState(NamedTuple):
    """What the stream remembers, one rotating average a component.

    Attributes:
        real: Real part, ``[B, H, S, m, V + 1]``; the last column averages the key features alone.
        imag: Imaginary part, same shape.
        step: Tokens so far, an integer without axes.
    """

    real: Tensor
    imag: Tensor
    step: Tensor


@without_autocast
def dense_spectral_attention(
    query_features: Tensor,
    key_features: Tensor,
    value: Tensor,
    spectrum: ComplexSpectrum,
    *,
    key_mask: Tensor | None = None,
    eps: float = EPS,
) -> Tensor:
    """Causal attention with the dense mask, O(L^2).

    ``A_ij = (Phi_i . Phi'_j) M(i - j)`` for ``j <= i``, ``out = A V / (A 1 + eps)``.

    Args:
        query_features: ``[B, H, L, m]``.
        key_features: ``[B, H, L, m]``.
        value: ``[B, H, L, V]``.
        spectrum: Of the mask, for ``H`` heads.
        key_mask: False where a key is padding, ``[B, L]``; a query without keys reads 0.
        eps: Added to the denominator.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    dtype = _check(query_features, key_features, value, spectrum, rank=4)
    key_features, value = mask_keys(key_features, value, check_key_mask(key_mask, key_features))
    index = torch.arange(value.shape[-2], device=value.device)
    mask = spectrum.mask((index[:, None] - index).clamp(min=0)).to(dtype)
    weights = query_features.to(dtype) @ key_features.to(dtype).mT * mask
    return kernel_attention(weights, value, causal=True, eps=eps)


def causal_spectral_attention(
    query_features: Tensor,
    key_features: Tensor,
    value: Tensor,
    spectrum: ComplexSpectrum,
    *,
    chunk: int = 64,
    state: SpectralState | None = None,
    key_mask: Tensor | None = None,
    eps: float = EPS,
) -> tuple[Tensor, SpectralState]:
    """The same attention in chunks, by the linear engine on rotated features: a component is a decaying head.

    Args:
        query_features: ``[B, H, L, m]``.
        key_features: ``[B, H, L, m]``.
        value: ``[B, H, L, V]``.
        spectrum: Of the mask, for ``H`` heads.
        chunk: Tokens handled by one masked matrix product, at least 1.
        state: To go on from, as returned here or by `spectral_step`; empty by default.
        key_mask: False where a key is padding, ``[B, L]``; time passes all the same.
        eps: Added to the denominator.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``, and the state after the last token.

    Raises:
        ValueError: If shapes or dtypes disagree, or ``chunk`` is below 1.
    """
    dtype = _check(query_features, key_features, value, spectrum, rank=4)
    key_features, value = mask_keys(key_features, value, check_key_mask(key_mask, key_features))
    length = value.shape[-2]
    position = torch.arange(length + 1, device=value.device, dtype=torch.int32)[:, None]
    angle = 2 * math.pi * phase(spectrum.frequency[..., None], position).mT[..., None]
    turned = angle + spectrum.phase.double()[..., None, None]
    query = spectrum.amplitude.to(dtype)[..., None, None] * _rotate(
        query_features.to(dtype), turned[:, :, 1:]
    )
    key = _rotate(key_features.to(dtype), angle[:, :, 1:])
    if state is None:
        state = spectral_state(key_features, value, spectrum)
    total = 1 / _gain(spectrum, state.step, dtype)
    sums, carried = causal_sums(
        query,
        key,
        with_ones(value.to(dtype))[:, :, None],
        decay_rate=spectrum.decay_rate,
        chunk=chunk,
        state=torch.cat([state.real * total, -state.imag * total], dim=-2),
    )
    average = carried * _gain(spectrum, state.step + length, dtype)
    along, across = average.chunk(2, dim=-2)
    cosine, sine = angle[:, :, -1:].cos().to(dtype), angle[:, :, -1:].sin().to(dtype)
    state = SpectralState(cosine * along + sine * across, sine * along - cosine * across, state.step + length)
    return normalise(sums.sum(dim=2), eps=eps).to(value.dtype), state


@without_autocast
def spectral_step(
    state: SpectralState,
    query_features: Tensor,
    key_features: Tensor,
    value: Tensor,
    spectrum: ComplexSpectrum,
    *,
    eps: float = EPS,
) -> tuple[Tensor, SpectralState]:
    """One token of the same attention: write it, then read.

    Args:
        state: From `spectral_state` before the first token.
        query_features: ``[B, H, m]``.
        key_features: ``[B, H, m]``.
        value: ``[B, H, V]``.
        spectrum: Of the mask, the same through the whole stream.
        eps: Added to the denominator.

    Returns:
        ``[B, H, V]`` in the dtype of ``value``, and the next state.

    Raises:
        ValueError: If shapes or dtypes disagree.
    """
    dtype = _check(query_features, key_features, value, spectrum, rank=3)
    step = state.step + 1
    gain = _gain(spectrum, step, dtype)
    angle = 2 * math.pi * spectrum.frequency.double()[..., None, None]
    written = key_features.to(dtype)[:, :, None, :, None] * with_ones(value.to(dtype))[:, :, None, None, :]
    real, imag = advance_rotating(
        state.real, state.imag, written, gain, angle.cos().to(dtype), angle.sin().to(dtype)
    )
    turn = spectrum.phase.to(dtype)[..., None, None]
    weight = spectrum.amplitude.to(dtype)[..., None, None] / gain
    memory = (weight * (turn.cos() * real - turn.sin() * imag)).sum(dim=2)
    sums = (query_features.to(dtype)[..., None, :] @ memory).squeeze(-2)
    return normalise(sums, eps=eps).to(value.dtype), SpectralState(real, imag, step)


def spectral_state(key_features: Tensor, value: Tensor, spectrum: ComplexSpectrum) -> SpectralState:
    """Empty state for tokens like these: ``key_features [B, H, ..., m]``, ``value [B, H, ..., V]``."""
    dtype = working_dtype(key_features=key_features, value=value)
    components = spectrum.amplitude.shape[-1]
    shape = (*value.shape[:2], components, key_features.shape[-1], value.shape[-1] + 1)
    zero = value.new_zeros(shape, dtype=dtype)
    return SpectralState(zero, zero.clone(), torch.zeros((), dtype=torch.int64, device=value.device))


def _rotate(features: Tensor, angle: Tensor) -> Tensor:
    """Turn features ``[B, H, L, m]`` by angles ``[H, S, L, 1]`` into ``[B, H, S, L, 2m]``."""
    cosine, sine = angle.cos().to(features.dtype), angle.sin().to(features.dtype)
    return torch.cat([features[:, :, None] * cosine, features[:, :, None] * sine], dim=-1)


def _gain(spectrum: ComplexSpectrum, step: Tensor, dtype: torch.dtype) -> Tensor:
    return write_gain(spectrum.decay_rate.to(dtype), step.clamp(min=1))[..., None, None]


def _check(
    query_features: Tensor, key_features: Tensor, value: Tensor, spectrum: ComplexSpectrum, *, rank: int
) -> torch.dtype:
    pattern = "[B, H, L, .]" if rank == 4 else "[B, H, .]"
    check_rank(pattern, rank, query_features=query_features, key_features=key_features, value=value)
    check_device(value=value, key_features=key_features, amplitude=spectrum.amplitude)
    check_same("m", -1, query_features=query_features, key_features=key_features)
    for axis, name in enumerate("BHL"[: rank - 1]):
        check_same(name, axis, query_features=query_features, key_features=key_features, value=value)
    if spectrum.amplitude.shape[0] not in (1, value.shape[1]):
        heads = spectrum.amplitude.shape[0]
        raise ValueError(f"spectrum has {heads} heads and value {value.shape[1]}: {list(value.shape)}")
    return working_dtype(query_features=query_features, key_features=key_features, value=value)
