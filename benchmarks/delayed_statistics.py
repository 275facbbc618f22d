"""What it costs in final loss that a step uses the statistics of the step before.

Trains every task with the shipped weights twice from the same start on the same batches: each tensor's
gain and the RMS of its averages taken from this step, or from the one before (`RuleConfig.statistics`). The
weights were meta-trained with those of this step. Prints a table; the last line is one JSON object.

    python benchmarks/delayed_statistics.py --out runs/delayed-statistics
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from learned_opt import LearnedOptimizer, UpdateRule
from learned_opt.checkpoint import load_checkpoint
from tasks.benchmark import Entry, Results, run_benchmark

VARIANTS = ("current", "delayed")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Options:
    """Cost of delayed statistics in final training loss.

    Args:
        tasks: Where they are compared.
        seeds: Seeds of each run.
        steps: Steps of each run.
        learning_rates: Everyone runs at all of them.
        rule: Whose weights.
        workers: Processes.
        out: Folder of the runs; finished ones are not run again.
    """

    tasks: tuple[str, ...] = ("digits-mlp", "fashion-14-vit", "rastrigin-10")
    seeds: int = 5
    steps: int = 200
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    rule: str = "flt-base"
    workers: int = 1
    out: Path = Path("runs/delayed-statistics")


def optimizer(params, *, lr: float, rule: str, statistics: str) -> LearnedOptimizer:
    """The rule's weights with statistics of either step."""
    checkpoint = load_checkpoint(rule)
    config = replace(checkpoint.config, statistics=statistics)
    return LearnedOptimizer(params, lr, rule=UpdateRule(config), meta=checkpoint.meta)


def losses(results: Results, task: str, variant: str, setting: tuple[str, float]) -> np.ndarray:
    """Final training loss of each seed."""
    return np.array([run.final_loss for run in results.runs(task, variant, *setting)])


def compare(results: Results, options: Options) -> list[dict]:
    """For each task and setting: mean final losses, their ratio, and how the seeds spread."""
    rows = []
    for task in options.tasks:
        for setting in ((s, lr) for s in SCHEDULES for lr in options.learning_rates):
            current, delayed = (losses(results, task, variant, setting) for variant in VARIANTS)
            logs = np.log(delayed / current)
            rows.append(
                {
                    "task": task,
                    "schedule": setting[0],
                    "lr": setting[1],
                    "current": current.mean(),
                    "spread": current.std(ddof=1),
                    "delayed": delayed.mean(),
                    "ratio": float(np.exp(logs.mean())),
                    "standard_error_of_log_ratio": float(logs.std(ddof=1) / np.sqrt(len(logs))),
                }
            )
    return rows


def main() -> None:
    """Run, print the table and one JSON object."""
    options = tyro.cli(Options)
    entries = [
        Entry(
            name,
            partial(optimizer, rule=options.rule, statistics=name),
            1e-3,
            options.learning_rates,
            kind="learned",
        )
        for name in VARIANTS
    ]
    results = run_benchmark(
        options.tasks,
        entries,
        seeds=options.seeds,
        steps=options.steps,
        learning_rates=options.learning_rates,
        out=options.out,
        references=("current",),
        workers=options.workers,
    )
    rows = compare(results, options)
    table = Table("task", "setting", "current ± deviation", "delayed", "ratio ± standard error")
    for row in rows:
        ratio = f"{row['ratio']:.3f} ± {row['standard_error_of_log_ratio']:.3f}"
        current = f"{row['current']:.4g} ± {row['spread']:.2g}"
        table.add_row(
            row["task"], f"{row['schedule']} {row['lr']:g}", current, f"{row['delayed']:.4g}", ratio
        )
    Console(width=150).print(table)
    print(json.dumps({"rule": options.rule, "steps": options.steps, "seeds": options.seeds, "rows": rows}))


if __name__ == "__main__":
    main()
