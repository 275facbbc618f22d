"""What holding the optimizer's state in bfloat16 costs in final loss.

Trains every task with the shipped optimizer three times from the same weights on the same batches: state in
float32, in bfloat16 with the stochastic rounding that ships, and in bfloat16 rounded to nearest, which is
what rounding by a plain cast would give. Prints a table; the last line is one JSON object.

    python benchmarks/state_dtype.py --out runs/state-dtype
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from learned_opt import FLT, LearnedOptimizer
from tasks.benchmark import Entry, Results, run_benchmark

VARIANTS = ("float32", "bfloat16", "bfloat16-nearest")


@dataclass(frozen=True)
class Options:
    """Cost of bfloat16 state in final training loss.

    Args:
        tasks: Tasks, none of which the optimizer was meta-trained on.
        seeds: Seeds of each run.
        steps: Steps of each run.
        learning_rates: Everyone runs at all of them; the tuned one is each variant's own best.
        workers: Processes.
        out: Folder of the runs; finished ones are not run again.
    """

    tasks: tuple[str, ...] = ("fashion-14-vit", "fashion-14-conv", "fashion-14-autoencoder", "rastrigin-10")
    seeds: int = 3
    steps: int = 600
    learning_rates: tuple[float, ...] = (5e-4, 2e-3, 8e-3)
    workers: int = 1
    out: Path = Path("runs/state-dtype")


def nearest(params, *, lr: float) -> LearnedOptimizer:
    """The shipped optimizer whose memory is rounded to the nearest bfloat16 after every step."""
    optimizer = FLT(params, lr=lr)

    def round_memory(*_) -> None:
        for state in optimizer.state.values():
            state["memory"].copy_(state["memory"].bfloat16())

    optimizer.register_step_post_hook(round_memory)
    return optimizer


def entries(learning_rates: tuple[float, ...]) -> list[Entry]:
    """The three variants."""
    factories = {
        "float32": FLT,
        "bfloat16": partial(FLT, state_dtype=torch.bfloat16),
        "bfloat16-nearest": nearest,
    }
    return [Entry(name, factories[name], 2e-3, learning_rates, kind="learned") for name in VARIANTS]


def losses(results: Results, task: str, variant: str, schedule: str, lr: float) -> np.ndarray:
    """Final training loss of each seed."""
    return np.array([run.final_loss for run in results.runs(task, variant, schedule, lr)])


def compare(results: Results, options: Options) -> list[dict]:
    """For each task, at the schedule and rate that float32 likes best: mean final losses and their ratios.

    Settings at which a run of any variant diverged are counted, and left out of the mean over settings.
    """
    rows = []
    for task in options.tasks:
        settings = [(s, lr) for s in ("constant", "cosine") for lr in options.learning_rates]
        finite = [
            setting
            for setting in settings
            if all(np.isfinite(losses(results, task, variant, *setting)).all() for variant in VARIANTS)
        ]
        best = min(finite, key=lambda setting: losses(results, task, "float32", *setting).mean())
        plain = losses(results, task, "float32", *best)
        row: dict = {"task": task, "schedule": best[0], "lr": best[1], "float32": plain.mean()}
        row["spread"] = plain.std(ddof=1)
        row["settings"], row["diverged"] = len(settings), len(settings) - len(finite)
        for variant in VARIANTS[1:]:
            ratios = [
                losses(results, task, variant, *setting).mean()
                / losses(results, task, "float32", *setting).mean()
                for setting in finite
            ]
            row[variant] = losses(results, task, variant, *best).mean()
            row[f"{variant}/float32"] = row[variant] / row["float32"]
            row[f"{variant}/float32 over all settings"] = float(np.exp(np.mean(np.log(ratios))))
        rows.append(row)
    return rows


def show(rows: list[dict], console: Console) -> None:
    """Print the table."""
    table = Table(title="final training loss by dtype of the state (ratio to float32 in brackets)")
    for column in ("task", "setting", "float32, mean ± deviation", *VARIANTS[1:]):
        table.add_column(column)
    for row in rows:
        cells = [
            f"{row[variant]:.4g} ({row[f'{variant}/float32']:.3f}; "
            f"all settings {row[f'{variant}/float32 over all settings']:.3f})"
            for variant in VARIANTS[1:]
        ]
        setting = f"{row['schedule']} {row['lr']:g}"
        table.add_row(row["task"], setting, f"{row['float32']:.4g} ± {row['spread']:.2g}", *cells)
    console.print(table)


def main() -> None:
    """Run, print the table and one JSON object."""
    options = tyro.cli(Options)
    results = run_benchmark(
        options.tasks,
        entries(options.learning_rates),
        seeds=options.seeds,
        steps=options.steps,
        learning_rates=options.learning_rates,
        out=options.out,
        references=("float32",),
        workers=options.workers,
    )
    rows = compare(results, options)
    show(rows, Console(width=150))
    print(json.dumps({"steps": options.steps, "seeds": options.seeds, "tasks": rows}))


if __name__ == "__main__":
    main()
