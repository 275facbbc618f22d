"""``learned-opt bench``: optimizers against each other, on equal terms."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from meta_train.commands import parse
from meta_train.commands.devices import require_device
from meta_train.commands.display import console, refuse_failures, say, shown
from meta_train.entries import entries
from tasks.benchmark import run_benchmark, terminal_table

Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME,...")]
Rates = Annotated[tuple[str, ...], tyro.conf.arg(metavar="LR,...")]


@dataclass(frozen=True)
class BenchCommand:
    """Benchmark optimizers: every one on every task at every learning rate, schedule and seed.

    Equal seeds start from the same weights and see the same batches. Prints a table and writes results.json,
    plots and index.html. Runs that the folder already holds are not run again, so an interrupted benchmark
    goes on when it is called again.

    Args:
        optimizers: adam, adamw, sgd, any of timm's (lion, muon, ...) or of pytorch-optimizer (soap, ...), flt
            (the learned optimizer that ships), folders of saved ones, celo:PATH with Celo's published
            weights, or module:callable for your own.
        tasks: Tasks by name, such as digits-vit, digits-mlp, fashion-mlp or rastrigin-10.
        seeds: Number of seeds.
        seed: The first of them.
        steps: Length of every run; by default what suits each task.
        lrs: Learning rates for all; by default each one's own 14 (Adam 1e-4 to 1) and its default.
        schedules: constant, cosine.
        references: The optimizers over the best of which speed-ups are figured.
        workers: Processes; 0 for none beside this one.
        device: Where to compute, cpu or cuda.
        out: Folder for the results.
    """

    optimizers: Names = ("adam", "flt")
    tasks: Names = ("digits-vit", "rastrigin-10")
    seeds: int = 5
    seed: int = 0
    steps: int | None = None
    lrs: Rates = ()
    schedules: Names = ("constant", "cosine")
    references: Names = ("adam",)
    workers: int = min(os.cpu_count() or 1, 8)
    device: str = "cpu"
    out: Path = Path("runs/bench")


def run(options: Sequence[str]) -> None:
    """Run the subcommand."""
    command = parse(BenchCommand, "bench", options)
    require_device(command.device)
    if command.seeds < 1:
        raise ValueError(f"seeds is {command.seeds}; expected at least 1")
    results = run_benchmark(
        split(command.tasks),
        entries(split(command.optimizers)),
        seeds=range(command.seed, command.seed + command.seeds),
        steps=command.steps,
        schedules=split(command.schedules),
        learning_rates=_rates(command.lrs),
        out=command.out,
        references=split(command.references),
        workers=command.workers,
        device=command.device,
    )
    console.print(terminal_table(results))
    say(f"Page: {shown(command.out / 'index.html')}")
    say(f"Data: {shown(command.out / 'results.json')}")
    refuse_failures(results)


def split(words: Sequence[str]) -> list[str]:
    """The parts of words that may hold commas."""
    return [part for word in words for part in word.split(",") if part]


def _rates(words: Sequence[str]) -> list[float] | None:
    if not words:
        return None
    try:
        return [float(part) for part in split(words)]
    except ValueError:
        raise ValueError(f"lrs is {','.join(words)}; expected numbers separated by commas") from None
