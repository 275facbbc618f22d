"""Linear attention over a parameter's gradients, by content and, if asked, by time."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kernattn.features import gaussian_projection
from kernattn.rpe import phase
from kernattn.spectral import advance, write_gain
from learned_opt.layout import Layout
from learned_opt.memory.base import Meta, Readout, TimeScale
from learned_opt.memory.content import agreement, preprocess, relative, root
from learned_opt.memory.decays import average_scales, check_betas, decay_rates, learned_decays
from learned_opt.memory.response import mean_response

CONTENT = 2
"""Features of the content: a key is made of the size of the gradient and its agreement with the first
average, a query of the size of the first average and its agreement with the last one."""


class AttentionConfig(Protocol):
    """What an `AttentionMemory` is built from."""

    @property
    def betas(self) -> tuple[float, ...]:
        """Factor per step of each head."""
        ...

    @property
    def second_beta(self) -> float:
        """Factor per step of the average of squared gradients."""
        ...

    @property
    def features(self) -> tuple[int, ...]:
        """Positive features of each head; 0 for a plain average."""
        ...


def check_features(betas: tuple[float, ...], second_beta: float, features: tuple[int, ...]) -> None:
    """Refuse configurations that make no memory.

    Raises:
        ValueError: If a factor is outside (0, 1), or the features are not as many numbers from 0.
    """
    check_betas(betas, second_beta)
    if len(features) != len(betas) or any(count < 0 for count in features):
        raise ValueError(f"features is {features}; expected one number from 0 for each of {len(betas)} betas")


class _Head(NamedTuple):
    """Where a head with features is: its number, its rows of averages, its rows of features."""

    number: int
    averages: slice
    features: slice


class AttentionMemory:
    """Causal linear attention with positive features, whose decay is the head's exponential average.

    Head ``h`` gives ``sum_t b^(T-t) K(q_T, k_t) g_t / sum_t b^(T-t) K(q_T, k_t)`` with the kernel
    ``K = sum_f Phi_f(q) Phi_f(k)``, ``Phi_f(x) = exp(w_f . x - |x|^2 / 2)``. Keys and queries are linear in
    even features of the gradient history, so that the average is odd in it. Keys start constant: every head
    is then an exponential average with Adam's bias correction, whatever the queries are. With ``waves``,
    Fourier features of the step stand beside the content, and ``exp(W_p psi(t) - G/2)`` is a gain that all
    parameters share. Their amplitudes start at zero.

    State rows: an average a feature, or one a plain head; a mean key feature a feature; the second moment.
    All are stored bias-corrected: with a feature of 1 they are Adam's to the bit.

    Args:
        config: Of the heads.
        waves: Fourier samples ``r`` of every head with features; their frequencies at the start.

    References:
        Choromanski et al., 2021, https://arxiv.org/abs/2009.14794
        Choromanski et al., 2024, https://arxiv.org/abs/2302.01925
    """

    def __init__(self, config: AttentionConfig, waves: tuple[float, ...] = ()) -> None:
        self.config, self.waves = config, waves
        self.heads = len(config.betas)
        self.head_of_average = [h for h, count in enumerate(config.features) for _ in range(max(count, 1))]
        self.head_of_feature = [h for h, count in enumerate(config.features) for _ in range(count)]
        self.slots = len(self.head_of_feature)
        self.attentive = [self._head(h) for h, count in enumerate(config.features) if count]
        self._first_rows = [self.head_of_average.index(head) for head in range(self.heads)]
        self.floats_per_parameter = len(self.head_of_average) + self.slots + 1

    def _head(self, number: int) -> _Head:
        count, average = self.config.features[number], self.head_of_average.index(number)
        feature = self.head_of_feature.index(number)
        return _Head(number, slice(average, average + count), slice(feature, feature + count))

    def init_meta(self, dtype: torch.dtype, generator: torch.Generator | None = None) -> Meta:
        """Constant keys, and amplitudes of zero; the rows ``w_f`` are drawn, and learned like the rest."""
        generator = generator or torch.Generator().manual_seed(0)
        config, heads, waves = self.config, len(self.attentive), len(self.waves)
        width = CONTENT + 2 * waves
        rows = [
            gaussian_projection(config.features[head.number], width, generator=generator, dtype=dtype)
            for head in self.attentive
        ]
        meta = learned_decays(config.betas, config.second_beta, dtype) | {
            "memory.projection": torch.cat([torch.zeros(0, width, dtype=dtype), *rows]),
            "memory.key_weight": torch.zeros(heads, CONTENT, CONTENT, dtype=dtype),
            "memory.query_weight": torch.zeros(heads, CONTENT, CONTENT, dtype=dtype),
            "memory.query_bias": torch.ones(heads, CONTENT, dtype=dtype),
        }
        if waves:
            meta |= {
                "memory.wave_frequency": torch.tensor([self.waves] * heads, dtype=dtype).reshape(
                    heads, waves
                ),
                "memory.wave_amplitude": torch.zeros(heads, waves, dtype=dtype),
                "memory.wave_phase": torch.zeros(heads, waves, dtype=dtype),
            }
        return meta

    def advance(
        self, meta: Meta, state: Tensor, grad: Tensor, step: Tensor, live: Tensor, layout: Layout
    ) -> Tensor:
        """Write one gradient; see `Memory.advance`."""
        gain = write_gain(decay_rates(meta)[:, None], step) * live
        rows = [*self.head_of_average, *self.head_of_feature, self.heads]
        sizes = [len(self.head_of_average), self.slots, 1]
        average_gain, feature_gain, second_gain = layout.spread(gain[rows]).split_with_sizes(sizes)
        average, weight, second = state.split_with_sizes(sizes)
        second = advance(second, grad * grad, second_gain)
        if not self.slots:
            return torch.cat([advance(average, grad, average_gain), second])
        feature = self._key_features(meta, average, grad, second[0], step, layout)
        weight = advance(weight, feature, feature_gain)
        share = feature / torch.where(weight > 0, weight, 1.0)  # where nothing was written, nothing is
        average = advance(average, grad, average_gain * self._for_averages(share))
        return torch.cat([average, weight, second])

    def _key_features(
        self, meta: Meta, average: Tensor, grad: Tensor, second: Tensor, step: Tensor, layout: Layout
    ) -> Tensor:
        """``Phi(k)`` of every slot, ``[F, N]``, at most ``exp(|w|^2 / 2)``."""
        usual = root(second)
        ratio = relative(grad, usual)
        size, _ = preprocess(ratio)
        content = torch.stack([size, agreement(ratio, relative(average[0], usual))])
        exponents = []
        for head, weight in zip(self.attentive, meta["memory.key_weight"].unbind(), strict=True):
            key = weight @ content
            rows = meta["memory.projection"][head.features, :CONTENT]
            exponents.append(rows @ key - key.square().sum(0) / 2)
        exponent = torch.cat(exponents)
        if self.waves:
            exponent = exponent + layout.spread(self._gains(meta, step, reading=False))
        return exponent.exp()

    def _for_averages(self, share: Tensor) -> Tensor:
        """Rows of features as rows of averages, ``[A, N]``; 1 for a plain head."""
        attentive = {head.number: share[head.features] for head in self.attentive}
        plain = torch.ones_like(share[:1])
        return torch.cat([attentive.get(number, plain) for number in range(self.heads)])

    def _gains(self, meta: Meta, step: Tensor, *, reading: bool) -> Tensor:
        """Log-gains ``W_p psi(t) - G/2`` to write, ``W_p phi(t) - G/2`` to read, ``[F, columns]``.

        Phases are those of the whole step, modulo 1 in float64: exact wherever a stream is loaded or begins,
        since 24 bits of a step times 24 of a frequency are within the 53 of a product.
        """
        amplitude = meta["memory.wave_amplitude"]
        turns = phase(meta["memory.wave_frequency"][..., None], step[:, None])
        if reading:
            turns = turns + meta["memory.wave_phase"][:, None]
        angle = 2 * torch.pi * turns
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1).to(amplitude.dtype)
        features = torch.cat([amplitude, amplitude], dim=-1)[:, None] * waves
        halves = amplitude.square().sum(-1) / 2
        each = zip(self.attentive, features.unbind(), halves.unbind(), strict=True)
        rows = meta["memory.projection"][:, CONTENT:]
        return torch.cat([rows[head.features] @ feature.mT - half for head, feature, half in each])

    def read(self, meta: Meta, state: Tensor, step: Tensor, layout: Layout) -> Readout:
        """Averages of what is like the query; see `Memory.read`."""
        sizes = [len(self.head_of_average), self.slots, 1]
        average, weight, second = state.split_with_sizes(sizes)
        first = torch.stack([average[row] for row in self._first_rows])
        if (
            max(self.config.features) < 2
        ):  # one feature weights what is written, and nothing is left to choose
            return Readout(first, second[0])
        usual = root(second[0])
        newest, oldest = relative(first[0], usual), relative(first[-1], usual)
        content = torch.stack([preprocess(newest)[0], agreement(newest, oldest)])
        gains = layout.spread(self._gains(meta, step, reading=True)) if self.waves else None
        heads = list(first.unbind())
        for index, head in enumerate(self.attentive):
            query = meta["memory.query_weight"][index] @ content + meta["memory.query_bias"][index][:, None]
            exponent = meta["memory.projection"][head.features, :CONTENT] @ query
            if gains is not None:
                exponent = exponent + gains[head.features]
            match = exponent.softmax(0) * weight[head.features]
            share = match / (match.sum(0) + torch.finfo(match.dtype).tiny)
            slots = average[head.averages]
            heads[head.number] = slots[0] + (share * (slots - slots[0])).sum(0)
        return Readout(torch.stack(heads), second[0])

    def masks(self, meta: Meta, lags: Tensor) -> Tensor:
        """Mean response, ``[K, L]``, at the step after which it is taken; see `Memory.masks`."""
        return mean_response(self, meta, lags)

    def time_scales(self, meta: Meta) -> list[TimeScale]:
        """Of the averages, and of the waves under each; see `Memory.time_scales`."""
        averages = average_scales(decay_rates(meta))
        if not self.waves:
            return averages
        frequencies = meta["memory.wave_frequency"].abs().tolist()
        return averages + [
            TimeScale(f"wave {head + 1}.{index}", averages[head].half_life, frequency)
            for head, row in zip((head.number for head in self.attentive), frequencies, strict=True)
            for index, frequency in enumerate(row, start=1)
        ]
