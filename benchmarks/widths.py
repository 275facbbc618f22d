"""Does one learning rate do for networks of every size? Vision Transformers from 10,000 to 5 million weights.

Every optimizer trains each of them at learning rates around its default. Prints, for each, the best of them,
the minimum of the parabola through it and its neighbours, the loss there and at the default, and how many
runs diverged; the last line is one JSON object.

    python benchmarks/widths.py --optimizers flt-base adamw --out runs/widths
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from meta_train.entries import entries
from tasks import Task
from tasks.benchmark import run_benchmark
from tasks.benchmark.running.cell import CellResult
from tasks.files import atomic_write_text
from tasks.vit import VitConfig

SIZES = ((16, 2, 2), (48, 3, 3), (128, 4, 4), (256, 7, 4))
"""Width, depth and heads."""


@dataclass(frozen=True)
class Options:
    """One learning rate for networks of every size?

    Args:
        optimizers: Names, as ``learned-opt bench`` takes them.
        steps: Of every run, warmed up and along a cosine.
        octaves: How many factors of 2 on each side of the default.
        per_octave: Learning rates in a factor of 2.
        seeds: How many.
        sizes: Which of `SIZES`, counted from 0, the smallest.
        workers: Processes.
        out: Folder for the runs and the table; finished ones are not run again.
    """

    optimizers: tuple[str, ...] = ("flt-base", "adamw")
    steps: int = 150
    octaves: int = 3
    per_octave: int = 1
    seeds: int = 1
    sizes: tuple[int, ...] = tuple(range(len(SIZES)))
    workers: int = 2
    out: Path = Path("runs/widths")


def tasks(sizes: Sequence[int]) -> list[Task]:
    """The transformers, on Fashion-MNIST in 16 patches."""
    chosen = [SIZES[index] for index in sizes]
    return [
        VitConfig("fashion-mnist", 28, 7, width, depth, heads, 64).build(name=f"vit-{width}-{depth}")
        for width, depth, heads in chosen
    ]


def main(options: Options) -> None:
    """Run, print and write."""
    transformers, rows = tasks(options.sizes), []
    for entry in entries(options.optimizers):
        most = options.octaves * options.per_octave
        rates = [entry.default_lr * 2.0 ** (k / options.per_octave) for k in range(-most, most + 1)]
        results = run_benchmark(
            transformers,
            [entry],
            seeds=options.seeds,
            steps=options.steps,
            schedules=["warmup-cosine"],
            learning_rates=rates,
            out=options.out / entry.name,
            workers=options.workers,
            time_limit=3600.0,
            references=(),
        )
        for task in transformers:
            runs = [cell for cell in results.cells if cell.cell.task == task.name]
            rows.append(row(task, entry.name, entry.default_lr, rates, runs))
    shown = [{name: value for name, value in each.items() if name != "losses"} for each in rows]
    table = Table(*(name.replace("_", " ") for name in shown[0]))
    for each in shown:
        table.add_row(
            *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in each.values())
        )
    Console(width=140).print(table)
    told = json.dumps({"steps": options.steps, "seeds": options.seeds, "rows": rows})
    atomic_write_text(options.out / "widths.json", told + "\n")
    print(told)


def row(
    task: Task, optimizer: str, default: float, rates: list[float], runs: list[CellResult]
) -> dict[str, object]:
    """What is told of one optimizer on one task."""
    losses = {
        rate: sum(run.final_loss for run in runs if math.isclose(run.cell.learning_rate, rate))
        / max(1, sum(math.isclose(run.cell.learning_rate, rate) for run in runs))
        for rate in rates
    }
    best = min(losses, key=lambda rate: losses[rate])
    return {
        "weights": sum(tensor.numel() for tensor in task.init(torch.Generator()).values()),
        "optimizer": optimizer,
        "default_lr": default,
        "best_lr": best,
        "best_lr_by_parabola": lowest(rates, [losses[rate] for rate in rates]),
        "best_over_default": best / default,
        "loss_at_best": losses[best],
        "loss_at_default": losses[default],
        "losses": {f"{rate:.4g}": loss if math.isfinite(loss) else None for rate, loss in losses.items()},
        "diverged": sum(run.status != "finished" for run in runs),
        "runs": len(runs),
    }


def lowest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Where the parabola through the least loss and its neighbours is least, over the logarithm of the rate.

    None where a neighbour is missing or diverged.
    """
    index = min(range(len(losses)), key=lambda index: losses[index])
    around = losses[max(index - 1, 0) : index + 2]
    if len(around) < 3 or index == 0 or not all(map(math.isfinite, around)):
        return None
    left, least, right = around
    step = math.log(rates[1] / rates[0])
    return rates[index] * math.exp(step * (left - right) / (2 * (left - 2 * least + right)))


if __name__ == "__main__":
    main(tyro.cli(Options))
