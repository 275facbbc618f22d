"""FLT over time: each parameter's gradients under learned damped-Fourier masks."""

from dataclasses import dataclass, field
from math import pi
from typing import Literal

import torch
from torch import Tensor

from kernattn.spectral import advance, advance_rotating, write_gain
from learned_opt.layout import Layout
from learned_opt.memory.base import Meta, Readout, TimeScale
from learned_opt.memory.decays import (
    average_scales,
    check_betas,
    decay_rates,
    half_lives,
    learned_decays,
    log_decay_rate,
)

Reading = Literal["waves", "spectrum"]
READINGS: tuple[Reading, ...] = ("waves", "spectrum")
MULTIPLIER = 4.0
"""Of the amplitudes with the reading ``"spectrum"``: a step of meta-training then takes a mask as far as it
takes S4D's, ``2 Re(C (exp(Δ A) - 1) / A exp(d Δ A))`` with readouts ``C`` and ``A`` from -1/2."""


@dataclass(frozen=True)
class FLTConfig:
    """Where the temporal masks start; all of these are then learned.

    Args:
        betas: Factor per step of each head's exponential average. The first is Adam's beta1.
        second_beta: Factor per step of the average of squared gradients, Adam's beta2.
        wave_betas: Damping per step of each Fourier component.
        wave_frequencies: Frequency of each component, cycles per step, in (0, 1/2].
        reading: What heads read beside their averages. ``"waves"``: all waves, each head. ``"spectrum"``: all
            averages and waves, the first head alone. Amplitudes start at zero either way.

    Raises:
        ValueError: If a factor is outside (0, 1), a frequency outside (0, 1/2], the wave lists disagree, or
            there is no such reading.
    """

    betas: tuple[float, ...] = (0.9, 0.99, 0.999)
    second_beta: float = 0.999
    wave_betas: tuple[float, ...] = (0.9, 0.97)
    wave_frequencies: tuple[float, ...] = (0.25, 0.05)
    reading: Reading = field(default="waves", repr=False, metadata={"since_then": True})

    def __post_init__(self) -> None:
        check_betas(self.betas, self.second_beta, *self.wave_betas)
        for frequency in self.wave_frequencies:
            if not 0.0 < frequency <= 0.5:
                raise ValueError(f"frequency {frequency} is outside (0, 1/2] cycles per step")
        if len(self.wave_betas) != len(self.wave_frequencies):
            raise ValueError(
                f"{len(self.wave_betas)} wave_betas and {len(self.wave_frequencies)} wave_frequencies; "
                "expected as many of one as of the other"
            )
        if self.reading not in READINGS:
            raise ValueError(f"reading is {self.reading!r}; expected one of {', '.join(READINGS)}")

    def build(self) -> "FLTMemory":
        """The memory of this configuration."""
        return FLTMemory(self)


class FLTMemory:
    """Linear attention over time with constant keys and the exact complex spectrum.

    Head ``h`` averages gradients under the mask
    ``(1-b_h) b_h^d + sum_s (1-b_s) b_s^d (a_hs cos(2 pi xi_s d) + c_hs sin(2 pi xi_s d))`` of the lag ``d``.
    With the amplitudes ``a`` and ``c`` at zero the heads are exponential averages, and the first is Adam's.
    With the reading ``"spectrum"`` the first head's mask is a learned sum over all averages and waves, itself
    counted once beside it, and the others' are their averages'.

    State rows: ``K`` exponential averages, ``r`` real parts, ``r`` imaginary parts, one second moment, all
    bias-corrected as stored.

    References:
        Choromanski et al., 2024, https://arxiv.org/abs/2302.01925
    """

    def __init__(self, config: FLTConfig) -> None:
        self.config = config
        self.heads = len(config.betas)
        self.waves = len(config.wave_betas)
        self.floats_per_parameter = self.heads + 2 * self.waves + 1

    def init_meta(self, dtype: torch.dtype, generator: torch.Generator | None = None) -> Meta:
        """Decay rates and frequencies of the configuration, amplitudes zero."""
        config = self.config
        meta = learned_decays(config.betas, config.second_beta, dtype) | {
            "memory.wave_log_decay_rate": log_decay_rate(config.wave_betas, dtype),
            "memory.wave_frequency": torch.tensor(config.wave_frequencies, dtype=dtype),
        }
        if config.reading == "spectrum":
            return meta | {"memory.amplitude": torch.zeros(1, self.heads + 2 * self.waves, dtype=dtype)}
        return meta | {"memory.wave_amplitude": torch.zeros(self.heads, 2 * self.waves, dtype=dtype)}

    def advance(
        self, meta: Meta, state: Tensor, grad: Tensor, step: Tensor, live: Tensor, layout: Layout
    ) -> Tensor:
        """Write one gradient; see `Memory.advance`."""
        heads, waves = self.heads, self.waves
        rates = torch.cat([decay_rates(meta), meta["memory.wave_log_decay_rate"].exp()])
        angle = 2 * pi * _exactly(meta["memory.wave_frequency"])[:, None] * live
        turns = torch.cat([angle.cos(), angle.sin()]).to(state.dtype)
        coefficients = layout.spread(torch.cat([write_gain(rates[:, None], step) * live, turns]))
        gain, wave_gain, cosine, sine = coefficients.split_with_sizes([heads + 1, waves, waves, waves])
        average, real, imag, second = state.split_with_sizes([heads, waves, waves, 1])
        average = advance(average, grad, gain[:heads])
        second = advance(second, grad * grad, gain[heads:])
        real, imag = advance_rotating(real, imag, grad, wave_gain, cosine, sine)
        return torch.cat([average, real, imag, second])

    def read(self, meta: Meta, state: Tensor, step: Tensor, layout: Layout) -> Readout:
        """Averages under each head's mask; see `Memory.read`."""
        components, second = state.split_with_sizes([self.heads + 2 * self.waves, 1])
        return Readout(self._heads(meta, components), second[0])

    def masks(self, meta: Meta, lags: Tensor) -> Tensor:
        """Weight of the gradient ``lags`` steps ago in each head, ``[K, L]``; see `Memory.masks`."""
        rate = meta["memory.log_decay_rate"].exp()[:, None]
        wave_rate = meta["memory.wave_log_decay_rate"].exp()[:, None]
        angle = 2 * pi * meta["memory.wave_frequency"][:, None] * lags
        damping = -torch.expm1(-wave_rate) * torch.exp(-wave_rate * lags)
        averages = -torch.expm1(-rate) * torch.exp(-rate * lags)
        return self._heads(meta, torch.cat([averages, damping * angle.cos(), damping * angle.sin()]))

    def mixture(self, meta: Meta) -> Tensor:
        """Shares of waves in each head, ``[K, 2 r]``; or of all in the first, ``[1, K + 2 r]``."""
        if self.config.reading == "spectrum":
            return MULTIPLIER * meta["memory.amplitude"]
        return meta["memory.wave_amplitude"]

    def time_scales(self, meta: Meta) -> list[TimeScale]:
        """Of the averages and of every wave; see `Memory.time_scales`."""
        steps = half_lives(meta["memory.wave_log_decay_rate"].exp())
        frequencies = meta["memory.wave_frequency"].abs().tolist()
        waves = [
            TimeScale(f"wave {index}", half_life, frequency)
            for index, (half_life, frequency) in enumerate(zip(steps, frequencies, strict=True), start=1)
        ]
        return average_scales(decay_rates(meta)) + waves

    def _heads(self, meta: Meta, components: Tensor) -> Tensor:
        """Of averages and waves, ``[K + 2 r, ...]``, what each head reads, ``[K, ...]``."""
        averages, mixture = components[: self.heads], self.mixture(meta)
        if self.config.reading == "spectrum":
            return torch.cat([averages[:1] + mixture @ components, averages[1:]])
        return averages + mixture @ components[self.heads :]


def _exactly(tensor: Tensor) -> Tensor:
    """In float64 where the device has it: a rotation repeats the rounding of its angle at every step."""
    return tensor.double() if tensor.device.type in ("cpu", "cuda") else tensor
