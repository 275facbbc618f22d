"""Fixed exponential averages: the history that published MLP rules read."""

from dataclasses import dataclass, field
from math import log

import torch
from torch import Tensor

from kernattn.spectral import advance, write_gain
from learned_opt.layout import Layout
from learned_opt.memory.base import Meta, Readout, TimeScale
from learned_opt.memory.decays import average_scales, check_betas


@dataclass(frozen=True)
class MomentsConfig:
    """Which averages are kept; none of their factors is learned.

    Args:
        betas: Factor per step of each average of the gradient. The first is Adam's beta1.
        second_beta: Factor per step of the average of squared gradients, Adam's beta2.
        mixed_betas: Factors of further averages, which are added to each of the first with learned weights
            that start at zero.

    Raises:
        ValueError: If a factor is outside (0, 1).
    """

    betas: tuple[float, ...] = (0.9, 0.99, 0.999)
    second_beta: float = 0.999
    mixed_betas: tuple[float, ...] = field(default=(), metadata={"since_then": True})

    def __post_init__(self) -> None:
        check_betas(self.betas, self.second_beta, *self.mixed_betas)

    def build(self) -> "MomentsMemory":
        """The memory of this configuration."""
        return MomentsMemory(self)


class MomentsMemory:
    """Momenta at several time scales and one second moment, as in small_fc_lopt and Celo.

    State rows: ``K`` averages of the gradient, those that are mixed in, one of its square, all bias-corrected
    as stored.

    References:
        Metz et al., 2022, https://arxiv.org/abs/2203.11860
    """

    def __init__(self, config: MomentsConfig) -> None:
        self.config = config
        self.heads = len(config.betas)
        self.averages = self.heads + len(config.mixed_betas)
        self.floats_per_parameter = self.averages + 1

    def init_meta(self, dtype: torch.dtype, generator: torch.Generator | None = None) -> Meta:
        """The weights of what is mixed in, zero; nothing where nothing is."""
        if not self.config.mixed_betas:
            return {}
        return {"memory.mixture": torch.zeros(self.heads, len(self.config.mixed_betas), dtype=dtype)}

    def rates(self, like: Tensor) -> Tensor:
        """Of the averages, those that are mixed in and the squares, as a tensor like another."""
        betas = (*self.config.betas, *self.config.mixed_betas, self.config.second_beta)
        return torch.tensor([-log(beta) for beta in betas], dtype=like.dtype, device=like.device)

    def advance(
        self, meta: Meta, state: Tensor, grad: Tensor, step: Tensor, live: Tensor, layout: Layout
    ) -> Tensor:
        """Write one gradient; see `Memory.advance`."""
        gain = layout.spread(write_gain(self.rates(state)[:, None], step) * live)
        count = self.averages
        first, second = state.split_with_sizes([count, 1])
        return torch.cat([advance(first, grad, gain[:count]), advance(second, grad * grad, gain[count:])])

    def read(self, meta: Meta, state: Tensor, step: Tensor, layout: Layout) -> Readout:
        """The averages, and to each what is mixed in; see `Memory.read`."""
        return Readout(self._mixed(meta, state[: self.averages]), state[self.averages])

    def masks(self, meta: Meta, lags: Tensor) -> Tensor:
        """``(1-b) b^lag`` of each average, ``[K, L]``, mixed likewise; see `Memory.masks`."""
        rate = self.rates(lags)[: self.averages, None]
        return self._mixed(meta, -torch.expm1(-rate) * torch.exp(-rate * lags))

    def time_scales(self, meta: Meta) -> list[TimeScale]:
        """As configured; see `Memory.time_scales`."""
        return average_scales(self.rates(torch.zeros((), dtype=torch.float64)))

    def _mixed(self, meta: Meta, averages: Tensor) -> Tensor:
        own, others = averages.split_with_sizes([self.heads, self.averages - self.heads])
        return own + meta["memory.mixture"] @ others if self.config.mixed_betas else own
