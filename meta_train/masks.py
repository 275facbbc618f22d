"""What a rule remembers: time scales and temporal masks, beside Adam's."""

from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

from learned_opt import Checkpoint, UpdateRule
from tasks.benchmark.report.palette import REFERENCE, SERIES
from tasks.benchmark.report.plots import legend_below, new_figure

ADAM_BETA = 0.9
LAGS = 1000


@dataclass(frozen=True)
class TrainedScale:
    """One component of a memory, before and after meta-training.

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


def time_scales(checkpoint: Checkpoint) -> list[TrainedScale]:
    """Half-lives and frequencies of everything that a rule's memory averages with."""
    memory = checkpoint.config.memory.build()
    start = memory.time_scales(memory.init_meta(torch.float64))
    return [
        TrainedScale(scale.name, scale.half_life, initial.half_life, scale.frequency)
        for scale, initial in zip(memory.time_scales(checkpoint.meta), start, strict=True)
    ]


def mask_plot(checkpoint: Checkpoint, title: str) -> Figure:
    """Weight of past gradients in each learned average and in Adam's, each in units of its largest."""
    half_lives = {scale.name: scale.half_life for scale in time_scales(checkpoint)}
    lags = torch.arange(LAGS, dtype=torch.float64)
    meta = {name: tensor.double() for name, tensor in checkpoint.meta.items()}
    masks = UpdateRule(checkpoint.config).masks(meta, lags)
    figure, axes = new_figure(title)
    ages = (lags + 1).numpy()
    axes.plot(ages, (ADAM_BETA**lags).numpy(), color=REFERENCE, linestyle="--", label="Adam's momentum")
    for index, mask in enumerate(masks):
        label = f"average {index + 1}"
        if label in half_lives:
            label += f", half-life {half_lives[label]:.0f}"
        axes.plot(ages, (mask / mask.abs().max()).numpy(), color=SERIES[index % len(SERIES)], label=label)
    axes.axhline(0.0, color=REFERENCE, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("age of the gradient, steps")
    axes.set_ylabel("relative weight")
    axes.xaxis.set_major_formatter("{x:g}")
    legend_below(axes)
    return figure
