"""Fixed exponential averages: the history that published MLP rules read."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernattn.spectral import advance, write_gain
from learned_opt.layout import Layout
from learned_opt.memory.base import Meta, Readout


@dataclass(frozen=True)
class MomentsConfig:
    """Which averages are kept; nothing in this memory is learned.

    Args:
        betas: Factor per step of each average of the gradient. The first is Adam's beta1.
        second_beta: Factor per step of the average of squared gradients, Adam's beta2.

    Raises:
        ValueError: If a factor is outside (0, 1).
    """

    betas: tuple[float, ...] = (0.9, 0.99, 0.999)
    second_beta: float = 0.999

    def __post_init__(self) -> None:
        if not self.betas:
            raise ValueError("betas is empty; expected at least one exponential average")
        for beta in (*self.betas, self.second_beta):
            if not 0.0 < beta < 1.0:
                raise ValueError(f"decay factor {beta} is outside (0, 1)")

    def build(self) -> "MomentsMemory":
        """The memory of this configuration."""
        return MomentsMemory(self)


class MomentsMemory:
    """Momenta at several time scales and one second moment, as in small_fc_lopt and Celo.

    State rows: ``K`` averages of the gradient, one of its square, bias-corrected as stored.

    References:
        Metz et al., 2022, https://arxiv.org/abs/2203.11860
    """

    def __init__(self, config: MomentsConfig) -> None:
        self.config = config
        self.heads = len(config.betas)
        self.floats_per_parameter = self.heads + 1

    def init_meta(self, dtype: torch.dtype) -> Meta:
        """Nothing is learned here."""
        return {}

    def _rates(self, like: Tensor) -> Tensor:
        betas = (*self.config.betas, self.config.second_beta)
        return -torch.log(torch.tensor(betas, dtype=like.dtype, device=like.device))

    def advance(
        self, meta: Meta, state: Tensor, grad: Tensor, step: Tensor, live: Tensor, layout: Layout
    ) -> Tensor:
        """Write one gradient; see `Memory.advance`."""
        gain = layout.spread(write_gain(self._rates(state)[:, None], step) * live)
        first, second = state.split_with_sizes([self.heads, 1])
        return torch.cat(
            [advance(first, grad, gain[: self.heads]), advance(second, grad * grad, gain[self.heads :])]
        )

    def read(self, meta: Meta, state: Tensor) -> Readout:
        """The averages as they are; see `Memory.read`."""
        return Readout(state[: self.heads], state[self.heads])

    def masks(self, meta: Meta, lags: Tensor) -> Tensor:
        """``(1-b) b^lag`` of each average, ``[K, L]``; see `Memory.masks`."""
        rate = self._rates(lags)[: self.heads, None]
        return -torch.expm1(-rate) * torch.exp(-rate * lags)
