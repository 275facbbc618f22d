"""S4D over time: Adam's moments beside a learned bank of damped complex modes."""

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from kernattn.spectral import advance, write_gain
from kernattn.ssm import DiagonalSystem, Transition, advance_modes, zero_order_hold
from learned_opt.layout import Layout
from learned_opt.memory.base import Meta, Readout, TimeScale
from learned_opt.memory.decays import (
    average_scales,
    check_betas,
    decay_rates,
    half_lives,
    learned_decays,
)

START_READOUT = 0.25
"""Of a mode in its own average: what undoes the gain ``2 / rate`` of a mode that does not oscillate."""


@dataclass(frozen=True)
class S4DConfig:
    """Where the modes start, all of which are then learned.

    Args:
        beta: Factor per step of the average that is Adam's first moment.
        second_beta: Factor per step of the average of squared gradients, Adam's beta2.
        step_sizes: Step size of each mode, positive. Mode ``n`` starts as S4D-Lin's, ``A = -1/2 + i pi n``.
        heads: Averages ``K`` that a read gives.

    Raises:
        ValueError: If a factor is outside (0, 1), a step size not positive, or there is no mode or head.
    """

    beta: float = 0.9
    second_beta: float = 0.999
    step_sizes: tuple[float, ...] = (0.1, 0.01, 0.001)
    heads: int = 3

    def __post_init__(self) -> None:
        check_betas((self.beta,), self.second_beta)
        if not self.step_sizes or not all(0.0 < size < float("inf") for size in self.step_sizes):
            raise ValueError(f"step_sizes is {self.step_sizes}; expected at least one finite number above 0")
        if self.heads < 1:
            raise ValueError(f"heads is {self.heads}; expected at least 1")

    def build(self) -> "S4DMemory":
        """The memory of this configuration."""
        return S4DMemory(self)


class S4DMemory:
    """A fixed linear filter bank, learned: no content addressing.

    Row 0 of the readout is Adam's first moment plus a combination of the modes, which starts at zero; each
    other row is one of the modes alone, which starts as the mode before it in number.

    State rows: Adam's first moment, the modes' real parts, their imaginary parts, the second moment. The
    moments are bias-corrected as stored; the modes start from rest, as those of a state-space model.

    References:
        Gu et al., 2022, https://arxiv.org/abs/2206.11893
    """

    def __init__(self, config: S4DConfig) -> None:
        self.config, self.heads, self.modes = config, config.heads, len(config.step_sizes)
        self.floats_per_parameter = 2 * self.modes + 2

    def init_meta(self, dtype: torch.dtype, generator: torch.Generator | None = None) -> Meta:
        """S4D-Lin, with Adam's moments beside it; nothing is drawn at random."""
        config, modes = self.config, self.modes
        readout = torch.zeros(2, self.heads, modes, dtype=dtype)
        for head in range(1, self.heads):
            readout[0, head, (head - 1) % modes] = START_READOUT
        return learned_decays((config.beta,), config.second_beta, dtype) | {
            "memory.log_rate": torch.full((modes,), 0.5, dtype=dtype).log(),
            "memory.frequency": (pi * torch.arange(modes, dtype=torch.float64)).to(dtype),
            "memory.log_step_size": torch.tensor(config.step_sizes, dtype=dtype).log(),
            "memory.readout": readout,
        }

    def advance(
        self, meta: Meta, state: Tensor, grad: Tensor, step: Tensor, live: Tensor, layout: Layout
    ) -> Tensor:
        """Write one gradient; see `Memory.advance`."""
        modes = self.modes
        real_of_keep, *others = zero_order_hold(
            meta["memory.log_rate"].exp(), meta["memory.frequency"], meta["memory.log_step_size"].exp()
        )
        keep = (real_of_keep[:, None] - 1) * live + 1
        table = torch.cat(
            [write_gain(decay_rates(meta)[:, None], step) * live, keep, torch.cat(others)[:, None] * live]
        )
        first_gain, second_gain, *parts = layout.spread(table).split_with_sizes([1, 1, *([modes] * 4)])
        first, real, imag, second = state.split_with_sizes([1, modes, modes, 1])
        first, second = advance(first, grad, first_gain), advance(second, grad * grad, second_gain)
        real, imag = advance_modes(real, imag, grad, Transition(*parts))
        return torch.cat([first, real, imag, second])

    def read(self, meta: Meta, state: Tensor, step: Tensor, layout: Layout) -> Readout:
        """Linear readouts of the modes; see `Memory.read`."""
        first, real, imag, second = state.split_with_sizes([1, self.modes, self.modes, 1])
        read_real, read_imag = meta["memory.readout"].unbind()
        output = 2 * (read_real @ real - read_imag @ imag)
        return Readout(torch.cat([first + output[:1], output[1:]]), second[0])

    def masks(self, meta: Meta, lags: Tensor) -> Tensor:
        """Weight of the gradient ``lags`` steps ago in each average, ``[K, L]``; see `Memory.masks`."""
        rate, read = decay_rates(meta)[0], meta["memory.readout"]
        system = DiagonalSystem(
            meta["memory.log_rate"].exp()[None, None],
            meta["memory.frequency"][None, None],
            meta["memory.log_step_size"].exp()[None, None],
            read[0][None],
            read[1][None],
        )
        modes = system.kernel(lags)[0].to(lags)
        moment = -torch.expm1(-rate) * torch.exp(-rate * lags)
        return torch.cat([modes[:1] + moment, modes[1:]])

    def time_scales(self, meta: Meta) -> list[TimeScale]:
        """Of Adam's moments and of every mode; see `Memory.time_scales`."""
        size = meta["memory.log_step_size"].exp()
        steps = half_lives(meta["memory.log_rate"].exp() * size)
        frequencies = (meta["memory.frequency"].abs() * size / (2 * pi)).tolist()
        modes = [
            TimeScale(f"mode {index}", half_life, frequency)
            for index, (half_life, frequency) in enumerate(zip(steps, frequencies, strict=True), start=1)
        ]
        return average_scales(decay_rates(meta)) + modes
