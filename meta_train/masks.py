"""What a rule remembers: time scales and temporal masks, beside Adam's."""

from dataclasses import dataclass
from math import log

import torch
from matplotlib.figure import Figure
from torch import Tensor

from learned_opt import Checkpoint, FLTConfig, UpdateRule
from tasks.benchmark.palette import REFERENCE, SERIES
from tasks.benchmark.plots import legend_below, new_figure

ADAM_BETA = 0.9
LAGS = 1000


@dataclass(frozen=True)
class TimeScale:
    """One component of a memory.

    Attributes:
        name: For people.
        half_life: Steps in which its weight halves.
        initial: The same at the start of meta-training.
        frequency: Cycles per step; None where it does not oscillate.
    """

    name: str
    half_life: float
    initial: float
    frequency: float | None = None


def time_scales(checkpoint: Checkpoint) -> list[TimeScale]:
    """Half-lives and frequencies of everything that a rule's memory averages with."""
    memory, meta = checkpoint.config.memory, checkpoint.meta
    heads = [f"average {index}" for index in range(1, len(memory.betas) + 1)]
    names, betas = [*heads, "squares"], (*memory.betas, memory.second_beta)
    initial = [-log(2) / log(beta) for beta in betas]
    if not isinstance(memory, FLTConfig):
        return [TimeScale(name, half_life, half_life) for name, half_life in zip(names, initial, strict=True)]
    rates = torch.cat([meta["memory.log_decay_rate"], meta["memory.log_second_decay_rate"]])
    averages = [
        TimeScale(name, half_life, start)
        for name, half_life, start in zip(names, _half_lives(rates), initial, strict=True)
    ]
    waves = [
        TimeScale(f"wave {index + 1}", half_life, -log(2) / log(memory.wave_betas[index]), frequency)
        for index, (half_life, frequency) in enumerate(
            zip(
                _half_lives(meta["memory.wave_log_decay_rate"]),
                meta["memory.wave_frequency"].abs().tolist(),
                strict=True,
            )
        )
    ]
    return averages + waves


def mask_plot(checkpoint: Checkpoint, title: str) -> Figure:
    """Weight of past gradients in each learned average and in Adam's, each in units of its largest."""
    scales = time_scales(checkpoint)
    lags = torch.arange(LAGS, dtype=torch.float64)
    meta = {name: tensor.double() for name, tensor in checkpoint.meta.items()}
    masks = UpdateRule(checkpoint.config).masks(meta, lags)
    figure, axes = new_figure(title)
    ages = (lags + 1).numpy()
    axes.plot(ages, (ADAM_BETA**lags).numpy(), color=REFERENCE, linestyle="--", label="Adam's momentum")
    for index, mask in enumerate(masks):
        label = f"average {index + 1}, half-life {scales[index].half_life:.0f}"
        axes.plot(ages, (mask / mask.abs().max()).numpy(), color=SERIES[index % len(SERIES)], label=label)
    axes.axhline(0.0, color=REFERENCE, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("age of the gradient, steps")
    axes.set_ylabel("relative weight")
    axes.xaxis.set_major_formatter("{x:g}")
    legend_below(axes)
    return figure


def _half_lives(log_rates: Tensor) -> list[float]:
    half_lives: list[float] = (log(2) / log_rates.double().exp()).tolist()
    return half_lives
