"""Draw what a rule learned: `python results/learned.py flt-base --out docs/images`.

The temporal masks, from the weights alone; and, from a run on a task that the rule was not meta-trained on,
what its directions are made of and how they answer to Adam's. Beside the pictures prints the figures of each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import grad

from learned_opt import Checkpoint, UpdateRule, functional
from learned_opt.tokens import Tokens
from meta_train.entries import load_learned
from meta_train.masks import mask_plot
from meta_train.unroll import learning_rates
from tasks import get_task
from tasks.benchmark.report.palette import REFERENCE, SERIES
from tasks.benchmark.report.plots import legend_below, new_row, png
from tasks.files import atomic_write_bytes

MATRICES, VECTORS = "matrices", "vectors"
BINS = 24


@dataclass(frozen=True)
class Options:
    """Draw what a rule learned.

    Args:
        name: A learned optimizer, by name or folder.
        out: Folder for the pictures.
        task: Whose training shows it.
        steps: Of that training, at the rule's default learning rate along a cosine.
        seed: Of its weights and batches.
    """

    name: Annotated[str, tyro.conf.Positional] = "flt-base"
    out: Path = Path("docs/images")
    task: str = "digits-conv"
    steps: int = 400
    seed: int = 0


class Moment(NamedTuple):
    """One step: each kind's share of every feature in the directions, and what the directions answer to."""

    shares: dict[str, Tensor]
    adam: Tensor
    agree: Tensor
    direction: Tensor


def main(options: Options) -> None:
    """Train, draw and print."""
    checkpoint = load_learned(options.name)
    moments = train(checkpoint, options)
    pictures = {
        "learned-masks": mask_plot(checkpoint, "Weight of past gradients"),
        "learned-shares": shares_plot(checkpoint, moments),
        "learned-response": response_plot(moments),
    }
    for name, figure in pictures.items():
        atomic_write_bytes(options.out / f"{name}.png", png(figure))
    for kind in kinds(checkpoint):
        mean = torch.stack([moment.shares[kind] for moment in moments]).mean(0)
        told = ", ".join(
            f"{name} {share:.2f}" for name, share in zip(features(checkpoint), mean.tolist(), strict=True)
        )
        print(f"{kind}: {told}")
    print("gain by the RMS of each average, exponents:", checkpoint.meta.get("head.rms_exponent"))


def kinds(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Kinds of tensors whose directions were learned."""
    return (MATRICES, VECTORS) if checkpoint.config.vectors == "learned" else (MATRICES,)


def features(checkpoint: Checkpoint) -> list[str]:
    """Names of what directions are made of, in the head's order."""
    heads = UpdateRule(checkpoint.config).memory.heads
    names = ["average 1 (Adam's)", *(f"average {index}" for index in range(2, heads + 1)), "newest gradient"]
    names += ["average 1, factored"] * checkpoint.config.factored
    return names + [f"saturating {index + 1}" for index in range(checkpoint.config.directions)]


def train(checkpoint: Checkpoint, options: Options) -> list[Moment]:
    """Train on the task and take notes at every step."""
    rule, seen, task = UpdateRule(checkpoint.config), list[Tokens](), get_task(options.task)
    direct = rule.head.direct

    def noting(meta, tokens, layout, *, log_gain=None):
        if checkpoint.config.vectors == "learned" or len(layout.shapes[0]) > 1:
            seen[:] = [tokens]
        return direct(meta, tokens, layout, log_gain=log_gain)

    rule.head.direct = noting
    generator = torch.Generator().manual_seed(options.seed)
    params = task.init(generator)
    state = functional.init_state(rule, params)
    batches = task.batches(generator, options.steps)
    shown = [tensor for tensor in params.values() if tensor.ndim > 1 or VECTORS in kinds(checkpoint)]
    matrix = torch.cat([torch.full((tensor.numel(),), tensor.ndim > 1) for tensor in shown])
    whole = torch.full((1,), float(options.steps))
    rates = learning_rates(
        torch.tensor([checkpoint.config.default_lr]), torch.tensor([True]), 0 * whole, whole, options.steps
    )
    moments = []
    for step in range(options.steps):
        grads = grad(task.loss)(params, tuple(part[step] for part in batches))
        params, state = functional.update(
            rule, checkpoint.meta, state, grads, params, lr=rates[step, 0], total_steps=options.steps
        )
        moments.append(moment(rule, checkpoint, seen[0], matrix))
    return moments


def moment(rule: UpdateRule, checkpoint: Checkpoint, tokens: Tokens, matrix: Tensor) -> Moment:
    """Notes of one step. A feature's share is its projection on the directions; shares sum to 1."""
    weight, parts = rule.head.weigh(checkpoint.meta, tokens.odd, tokens.even)
    added = weight * parts
    added[0] += tokens.odd[0]
    direction = added.sum(0)
    chosen = {MATRICES: matrix, VECTORS: ~matrix}
    shares = {
        kind: (added[:, one] * direction[one]).sum(1) / direction[one].square().sum().clamp_min(1e-30)
        for kind, one in chosen.items()
        if one.any()
    }
    adam, newest = tokens.odd[0], tokens.odd[rule.memory.heads]
    return Moment(shares, adam.abs(), adam * newest > 0, direction * adam.sign())


def shares_plot(checkpoint: Checkpoint, moments: list[Moment]) -> Figure:
    """Share of every feature in the directions, step by step, smoothed over a tenth of the steps."""
    shown = kinds(checkpoint)
    figure, row = new_row([f"Directions of {kind}" for kind in shown], width=4.8 * len(shown), height=3.2)
    width = max(1, len(moments) // 10)
    for axes, kind in zip(row, shown, strict=True):
        shares = torch.stack([moment.shares[kind] for moment in moments], dim=1)
        smooth = shares.unfold(1, width, 1).mean(-1)
        for index, (name, share) in enumerate(zip(features(checkpoint), smooth, strict=True)):
            axes.plot(range(width, len(moments) + 1), share, color=SERIES[index % len(SERIES)], label=name)
        axes.axhline(0.0, color=REFERENCE, linewidth=0.8)
        axes.set_xlabel("step")
        axes.set_ylabel("share of the direction")
        legend_below(axes)
    return figure


def response_plot(moments: list[Moment]) -> Figure:
    """How far a parameter is moved along Adam's direction, by that direction's size, early and late."""
    titles = ("First tenth of the run", "Last tenth of the run")
    figure, row = new_row(titles, width=9.6, height=3.2)
    tenth = max(1, len(moments) // 10)
    edges = torch.logspace(-2, 0.5, BINS + 1)
    centres = (edges[1:] * edges[:-1]).sqrt()
    for axes, part in zip(row, (moments[1 : tenth + 1], moments[-tenth:]), strict=True):
        adam, agree, moved = (torch.cat([each[index] for each in part]) for index in (1, 2, 3))
        place = torch.bucketize(adam, edges) - 1
        for colour, wanted, label in (
            (SERIES[0], True, "newest gradient agrees"),
            (SERIES[1], False, "newest gradient disagrees"),
        ):
            medians = [moved[(place == index) & (agree == wanted)] for index in range(BINS)]
            values = [float(group.median()) if len(group) > 20 else float("nan") for group in medians]
            axes.plot(centres, values, color=colour, label=label)
        axes.plot(centres, centres, color=REFERENCE, linestyle="--", label="Adam")
        axes.set_xscale("log")
        axes.set_xlabel("size of Adam's direction")
        axes.set_ylabel("median direction along it")
        axes.xaxis.set_major_formatter("{x:g}")
        legend_below(axes)
    return figure


if __name__ == "__main__":
    main(tyro.cli(Options))
