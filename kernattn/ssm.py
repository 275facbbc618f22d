"""S4D: a bank of damped complex modes, the fixed linear filters of diagonal state-space models.

Every mode of a stream follows ``x' = A x + u`` in continuous time, ``A = -rate + i frequency``. With the
input held over a step of length ``step_size`` (zero-order hold) that is exactly

    x_t = exp(step_size A) x_{t-1} + (exp(step_size A) - 1) / A u_t,    y_t = 2 Re sum_s c_s x_{t,s}

so that ``y`` is the convolution of ``u`` with `DiagonalSystem.kernel`. This module holds the definition
(`dense_ssm`), the convolution by FFT and the one-step stream. There is no content addressing: what is written
does not depend on what it is.

References:
    Gu, Gupta, Goel and Re, On the Parameterization and Initialization of Diagonal State Space Models, 2022,
    https://arxiv.org/abs/2206.11893
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kernattn._checks import check_rank, without_autocast, working_dtype


class Transition(NamedTuple):
    """One step of every mode, ``x <- (keep) x + (write) u``, complex numbers as pairs, equally shaped.

    Attributes:
        keep_real: Real part of ``exp(step_size A)``.
        keep_imag: Imaginary part.
        write_real: Real part of ``(exp(step_size A) - 1) / A``.
        write_imag: Imaginary part.
    """

    keep_real: Tensor
    keep_imag: Tensor
    write_real: Tensor
    write_imag: Tensor


def zero_order_hold(rate: Tensor, frequency: Tensor, step_size: Tensor) -> Transition:
    """Discretise modes ``A = -rate + i frequency`` with the input held over each step.

    Args:
        rate: Damping per unit of time, positive.
        frequency: In radians per unit of time.
        step_size: Time from token to token, positive.

    Returns:
        The transition, in the broadcast shape.
    """
    rate, frequency, step_size = torch.broadcast_tensors(rate, frequency, step_size)  # type: ignore[no-untyped-call]
    damping, angle = torch.exp(-rate * step_size), frequency * step_size
    keep_real, keep_imag = damping * angle.cos(), damping * angle.sin()
    change = torch.expm1(-rate * step_size) * angle.cos() - 2 * (angle / 2).sin().square()
    square = rate.square() + frequency.square()
    write_real = (frequency * keep_imag - rate * change) / square
    write_imag = -(frequency * change + rate * keep_imag) / square
    return Transition(keep_real, keep_imag, write_real, write_imag)


def advance_modes(real: Tensor, imag: Tensor, value: Tensor, transition: Transition) -> tuple[Tensor, Tensor]:
    """Take one token into every mode.

    Args:
        real: Real part of the state, any shape; zeros before the first token.
        imag: Imaginary part, same shape.
        value: The token ``u_t``, broadcasts against ``real``.
        transition: From `zero_order_hold`, broadcasts likewise.

    Returns:
        The next real and imaginary parts.
    """
    keep_real, keep_imag, write_real, write_imag = transition
    return (
        keep_real * real - keep_imag * imag + write_real * value,
        keep_imag * real + keep_real * imag + write_imag * value,
    )


@dataclass(frozen=True, eq=False)
class DiagonalSystem:
    """``S`` modes for every one of ``V`` channels of ``H`` heads; an axis of 1 is shared.

    Attributes:
        rate: Damping, ``[H, V, S]``, positive, per unit of time.
        frequency: ``[H, V, S]``, in radians per unit of time.
        step_size: ``[H, V, S]``, positive.
        read_real: Real part of ``c``, ``[H, V, S]``.
        read_imag: Imaginary part.

    Raises:
        ValueError: If a tensor is not ``[H, V, S]`` or they do not broadcast.
    """

    rate: Tensor
    frequency: Tensor
    step_size: Tensor
    read_real: Tensor
    read_imag: Tensor

    def __post_init__(self) -> None:
        shapes = {name: list(tensor.shape) for name, tensor in vars(self).items()}
        check_rank("[H, V, S]", 3, **vars(self))
        try:
            torch.broadcast_shapes(*shapes.values())  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise ValueError(f"expected shapes [H, V, S] that broadcast, got {shapes}") from None

    @classmethod
    def lin(
        cls,
        heads: int,
        channels: int,
        modes: int,
        *,
        shortest: float = 1e-3,
        longest: float = 1e-1,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> DiagonalSystem:
        """Where S4D-Lin starts: ``A_n = -1/2 + i pi n``, a log-uniform step size a channel, normal readouts.

        Args:
            heads: ``H``, at least 1.
            channels: ``V``, at least 1.
            modes: ``S``, at least 1.
            shortest: Least step size.
            longest: Largest.
            generator: Source of randomness.
            dtype: Of the system; the draws are made in float64.

        Raises:
            ValueError: If a count is below 1 or the step sizes are not ``0 < shortest <= longest``.
        """
        if min(heads, channels, modes) < 1:
            raise ValueError(f"expected at least 1 each of heads, channels, modes: {heads, channels, modes}")
        if not 0 < shortest <= longest:
            raise ValueError(f"step sizes are {shortest}..{longest}; expected 0 < shortest <= longest")
        span = torch.rand(heads, channels, 1, generator=generator, dtype=torch.float64)
        readout = torch.randn(2, heads, channels, modes, generator=generator, dtype=torch.float64)
        frequency = math.pi * torch.arange(modes, dtype=torch.float64)[None, None]
        step_size = torch.exp(math.log(shortest) + span * math.log(longest / shortest))
        parts = (torch.full_like(frequency, 0.5), frequency, step_size, *(readout / math.sqrt(2)).unbind())
        return cls(*(part.to(dtype) for part in parts))

    @property
    def shape(self) -> torch.Size:
        """``[H, V, S]``, shared axes 1."""
        return torch.broadcast_shapes(*(tensor.shape for tensor in vars(self).values()))  # type: ignore[no-untyped-call, no-any-return]

    def transition(self) -> Transition:
        """One step of every mode, each ``[H, V, S]``."""
        return zero_order_hold(self.rate, self.frequency, self.step_size)

    def kernel(self, lag: Tensor) -> Tensor:
        """Weight of the token ``lag`` steps ago in the output.

        ``2 Re sum_s c_s write_s exp(lag step_size_s A_s)``.

        Args:
            lag: ``[L]``, non-negative.

        Returns:
            ``[H, V, L]``.
        """
        power_real, power_imag = self._powers(lag)
        step = self.transition()
        real = self.read_real * step.write_real - self.read_imag * step.write_imag
        imag = self.read_real * step.write_imag + self.read_imag * step.write_real
        return 2 * (real[..., None] * power_real - imag[..., None] * power_imag).sum(dim=-2)

    def _powers(self, lag: Tensor) -> tuple[Tensor, Tensor]:
        """``exp(lag step_size A)``, ``[H, V, S, L]``; phases are taken in float64."""
        time = self.step_size.double()[..., None] * lag.double()
        damping = torch.exp(-self.rate.double()[..., None] * time)
        angle = self.frequency.double()[..., None] * time
        dtype = working_dtype(rate=self.rate)
        return (damping * angle.cos()).to(dtype), (damping * angle.sin()).to(dtype)


class ModeState(NamedTuple):
    """What the stream remembers.

    Attributes:
        real: Real part of every mode, ``[B, H, V, S]``.
        imag: Imaginary part.
    """

    real: Tensor
    imag: Tensor


@without_autocast
def dense_ssm(value: Tensor, system: DiagonalSystem) -> Tensor:
    """The definition: ``y_i = sum_{j <= i} kernel(i - j) u_j``, O(L^2).

    Args:
        value: ``u``, ``[B, H, L, V]``.
        system: For ``H`` heads of ``V`` channels.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``.

    Raises:
        ValueError: If the shapes disagree.
    """
    dtype = _check(value, system, rank=4)
    index = torch.arange(value.shape[-2], device=value.device)
    lag = index[:, None] - index
    kernel = system.kernel(lag.clamp(min=0).flatten())
    kernel = kernel.reshape(*kernel.shape[:2], *lag.shape).to(dtype)
    return torch.einsum("hvij,bhjv->bhiv", _whole(kernel, value).tril(), value.to(dtype)).to(value.dtype)


@without_autocast
def causal_ssm(
    value: Tensor, system: DiagonalSystem, *, state: ModeState | None = None
) -> tuple[Tensor, ModeState]:
    """The same by FFT, O(L log L), with a state to go on from.

    The error of an FFT is absolute: relative to the largest value, not to each.

    Args:
        value: ``u``, ``[B, H, L, V]``.
        system: For ``H`` heads of ``V`` channels.
        state: As returned here or by `ssm_step`; empty by default.

    Returns:
        ``[B, H, L, V]`` in the dtype of ``value``, and the state after the last token.

    Raises:
        ValueError: If the shapes disagree.
    """
    dtype = _check(value, system, rank=4)
    state = ssm_state(value, system) if state is None else state
    length = value.shape[-2]
    if 0 in value.shape:
        return value, state
    tokens = value.to(dtype).mT
    lag = torch.arange(length + 1, device=value.device)
    kernel = system.kernel(lag[:length]).to(dtype)
    spectrum = torch.fft.rfft(tokens, n=2 * length) * torch.fft.rfft(kernel, n=2 * length)
    output = torch.fft.irfft(spectrum, n=2 * length)[..., :length]
    power_real, power_imag = (_whole(part.to(dtype), value) for part in system._powers(lag))
    before_real, before_imag = (
        torch.einsum("bhvs,hvsl->bhvsl", state.real, a)
        + sign * torch.einsum("bhvs,hvsl->bhvsl", state.imag, b)
        for a, b, sign in ((power_real, power_imag, -1), (power_imag, power_real, 1))
    )
    read_real, read_imag = system.read_real.to(dtype)[..., None], system.read_imag.to(dtype)[..., None]
    output = output + 2 * (read_real * before_real - read_imag * before_imag).sum(dim=-2)[..., 1:]
    step = system.transition()
    sum_real, sum_imag = (
        torch.einsum("hvsl,bhvl->bhvs", part[..., :length].flip(-1), tokens)
        for part in (power_real, power_imag)
    )
    return output.mT.to(value.dtype), ModeState(
        before_real[..., -1] + step.write_real * sum_real - step.write_imag * sum_imag,
        before_imag[..., -1] + step.write_imag * sum_real + step.write_real * sum_imag,
    )


@without_autocast
def ssm_step(state: ModeState, value: Tensor, system: DiagonalSystem) -> tuple[Tensor, ModeState]:
    """One token of the same: write it, then read.

    Args:
        state: From `ssm_state` before the first token.
        value: ``u_t``, ``[B, H, V]``.
        system: The same through the whole stream.

    Returns:
        ``[B, H, V]`` in the dtype of ``value``, and the next state.

    Raises:
        ValueError: If the shapes disagree.
    """
    dtype = _check(value, system, rank=3)
    real, imag = advance_modes(*state, value.to(dtype)[..., None], system.transition())
    output = 2 * (system.read_real * real - system.read_imag * imag).sum(dim=-1)
    return output.to(value.dtype), ModeState(real, imag)


def ssm_state(value: Tensor, system: DiagonalSystem) -> ModeState:
    """Empty state for tokens like these, ``[B, H, ..., V]``."""
    shape = (*value.shape[:2], value.shape[-1], system.shape[-1])
    zero = value.new_zeros(shape, dtype=working_dtype(value=value))
    return ModeState(zero, zero.clone())


def _whole(part: Tensor, value: Tensor) -> Tensor:
    """Give shared axes of ``[H, V, ...]`` their full size."""
    return part.expand(value.shape[1], value.shape[-1], *part.shape[2:])


def _check(value: Tensor, system: DiagonalSystem, *, rank: int) -> torch.dtype:
    check_rank("[B, H, L, V]" if rank == 4 else "[B, H, V]", rank, value=value)
    for name, expected, size in zip("HV", system.shape, (value.shape[1], value.shape[-1]), strict=False):
        if expected not in (1, size):
            raise ValueError(f"system has {name} = {expected} and value {size}: {list(value.shape)}")
    return working_dtype(value=value)
