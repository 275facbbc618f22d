"""A recurrent cell for every parameter: Adam's moments beside a coordinate-wise LSTM."""

from dataclasses import dataclass
from math import log, sqrt

import torch
from torch import Tensor

from kernattn.spectral import advance, write_gain
from learned_opt.layout import Layout
from learned_opt.memory.base import Meta, Readout, TimeScale
from learned_opt.memory.content import preprocess, relative, root
from learned_opt.memory.decays import average_scales, check_betas, decay_rates, learned_decays
from learned_opt.memory.response import mean_response


@dataclass(frozen=True)
class LSTMConfig:
    """Size of the cell and where its time scales start; all weights are learned.

    Args:
        beta: Factor per step of the average that is Adam's first moment.
        second_beta: Factor per step of the average of squared gradients, Adam's beta2.
        unit_betas: At the start, what each unit's forget gate is where its inputs are 0; one less that is
            its input gate. A unit takes two floats a parameter.
        heads: Averages ``K`` that a read gives.

    Raises:
        ValueError: If a factor is outside (0, 1), or there is no unit or head.
    """

    beta: float = 0.9
    second_beta: float = 0.999
    unit_betas: tuple[float, ...] = (0.9, 0.99, 0.999)
    heads: int = 3

    def __post_init__(self) -> None:
        check_betas(self.unit_betas, self.beta, self.second_beta)
        if self.heads < 1:
            raise ValueError(f"heads is {self.heads}; expected at least 1")

    def build(self) -> "LSTMMemory":
        """The memory of this configuration."""
        return LSTMMemory(self)


class LSTMMemory:
    """An LSTM whose cell is odd in the gradient history: gates see even features, candidates odd ones.

    With the gradient over the root second moment preprocessed to a size ``s`` and a sign ``o``, units ``h``:

        gates     = sigmoid(G [s, h o, |h|] + b)                  input, forget and output gate of every unit
        cell      = forget cell + input tanh(w o + U h)
        h         = output tanh(cell)
        readouts  = [Adam's first moment, 0, ...] + root second moment x W h

    ``W`` starts at zero in row 0; each other row starts as one unit. Biases of the gates start at the logits
    of the units' factors, so that cells are exponential averages at first.

    State rows: Adam's first moment, the cells, the units, the second moment.

    References:
        Andrychowicz et al., 2016, https://arxiv.org/abs/1606.04474
        Tallec and Ollivier, 2018, of the biases, https://arxiv.org/abs/1804.11188
    """

    def __init__(self, config: LSTMConfig) -> None:
        self.config, self.heads, self.units = config, config.heads, len(config.unit_betas)
        self.floats_per_parameter = 2 * self.units + 2

    def init_meta(self, dtype: torch.dtype, generator: torch.Generator | None = None) -> Meta:
        """Drawn gates and candidates, and a readout that leaves Adam's first moment as it is."""
        generator = generator or torch.Generator().manual_seed(0)
        config, units = self.config, self.units

        def normal(rows: int, columns: int) -> Tensor:
            draw = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
            return (draw / sqrt(columns)).to(dtype)

        logits = torch.tensor([log(beta / (1 - beta)) for beta in config.unit_betas], dtype=dtype)
        output = torch.zeros(self.heads, units, dtype=dtype)
        for head in range(1, self.heads):
            output[head, head % units] = 1.0
        return learned_decays((config.beta,), config.second_beta, dtype) | {
            "memory.gate_weight": normal(3 * units, 1 + 2 * units),
            "memory.gate_bias": torch.cat([-logits, logits, torch.zeros_like(logits)]),
            "memory.candidate_weight": normal(units, 1),
            "memory.recurrent_weight": normal(units, units),
            "memory.output_weight": output,
        }

    def advance(
        self, meta: Meta, state: Tensor, grad: Tensor, step: Tensor, live: Tensor, layout: Layout
    ) -> Tensor:
        """Write one gradient; see `Memory.advance`."""
        units = self.units
        gain = layout.spread(write_gain(decay_rates(meta)[:, None], step) * live)
        first, cell, unit, second = state.split_with_sizes([1, units, units, 1])
        first, second = advance(first, grad, gain[:1]), advance(second, grad * grad, gain[1:])
        size, sign = preprocess(relative(grad, root(second[0])))
        even = torch.cat([size[None], unit * sign, unit.abs()])
        gates = torch.sigmoid(meta["memory.gate_weight"] @ even + meta["memory.gate_bias"][:, None])
        take, keep, show = gates.split_with_sizes([units] * 3)
        candidate = torch.tanh(
            meta["memory.candidate_weight"] * sign + meta["memory.recurrent_weight"] @ unit
        )
        next_cell = keep * cell + take * candidate
        moved = torch.cat([next_cell, show * torch.tanh(next_cell)])
        kept = torch.where(layout.spread(live) > 0, moved, torch.cat([cell, unit]))
        return torch.cat([first, kept, second])

    def read(self, meta: Meta, state: Tensor, step: Tensor, layout: Layout) -> Readout:
        """Adam's first moment and what the units say; see `Memory.read`."""
        first, _, unit, second = state.split_with_sizes([1, self.units, self.units, 1])
        said = meta["memory.output_weight"] @ unit * root(second[0])
        return Readout(torch.cat([first + said[:1], said[1:]]), second[0])

    def masks(self, meta: Meta, lags: Tensor) -> Tensor:
        """Mean response, ``[K, L]``; see `Memory.masks`."""
        return mean_response(self, meta, lags)

    def time_scales(self, meta: Meta) -> list[TimeScale]:
        """Of Adam's moments, and of every unit where its gates' inputs are 0; see `Memory.time_scales`."""
        forget = meta["memory.gate_bias"][self.units : 2 * self.units].double()
        rates = torch.nn.functional.softplus(-forget)
        units = [
            TimeScale(f"unit {index}", half_life)
            for index, half_life in enumerate((log(2) / rates).tolist(), start=1)
        ]
        return average_scales(decay_rates(meta)) + units
