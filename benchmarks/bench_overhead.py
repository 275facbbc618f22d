"""What the benchmark's harness costs: its time outside of the task and the optimizer, as a share.

    python benchmarks/bench_overhead.py

Runs by the harness are timed against plain loops over the same tasks and optimizers: gradients and steps, and
nothing else. The harness adds the reading of the loss, the check for divergence, the learning rate and the
path. Times are of the processor, on one thread, the least of several rounds that take turns.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.func import grad_and_value, vmap

from tasks import get_task
from tasks.base import Task
from tasks.benchmark import Entry, get_entry
from tasks.benchmark.running.alone import leaves, run_cell
from tasks.benchmark.running.cell import Cell
from tasks.benchmark.running.population import run_group
from tasks.benchmark.running.streams import batch_stream, initial_parameters

SEED = 0


def cells_of(task: str, entry: Entry, members: int, steps: int) -> list[Cell]:
    """Settings that stay far from divergence."""
    rates = [entry.default_lr * (1 + index / members) for index in range(members)]
    return [Cell(task, entry.name, "cosine", rate, SEED, steps) for rate in rates]


def plain_alone(task: Task, entry: Entry, cell: Cell) -> None:
    """Gradients and steps of one run."""
    params = leaves(initial_parameters(task, SEED), "cpu")
    optimizer = entry.build(params, cell.learning_rate)
    for batch in itertools.islice(batch_stream(task, SEED), cell.steps):
        task.loss(params, batch).backward()
        optimizer.step()
        optimizer.zero_grad()


def plain_together(task: Task, entry: Entry, cells: list[Cell]) -> None:
    """Gradients of a stack, which are handed out to an optimizer for each member, and their steps."""
    start = initial_parameters(task, SEED)
    stack = {name: tensor.expand(len(cells), *tensor.shape).clone() for name, tensor in start.items()}
    members, optimizers = [], []
    for index, cell in enumerate(cells):
        params = {name: tensor[index].detach().requires_grad_() for name, tensor in stack.items()}
        members.append(params)
        optimizers.append(entry.build(params, cell.learning_rate))
    gradient = vmap(grad_and_value(task.loss), in_dims=(0, None))
    for batch in itertools.islice(batch_stream(task, SEED), cells[0].steps):
        grads, _ = gradient(stack, batch)
        for index, (params, optimizer) in enumerate(zip(members, optimizers, strict=True)):
            for name, tensor in params.items():
                tensor.grad = grads[name][index]
            optimizer.step()


def least_seconds(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least processor time of each, after one round that does not count."""
    best = dict.fromkeys(functions, float("inf"))
    for number in range(rounds + 1):
        for name, function in functions.items():
            before = time.process_time()
            function()
            if number:
                best[name] = min(best[name], time.process_time() - before)
    return best


def together_row(way: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The tasks as one benchmark, each for its own number of steps: means over all of them."""
    steps = [get_task(row["task"], seed=SEED).default_steps for row in rows]
    harness, plain = (
        sum(count * row[kind] for count, row in zip(steps, rows, strict=True)) / sum(steps)
        for kind in ("microseconds", "plain_microseconds")
    )
    return {
        "task": "all",
        "optimizer": rows[0]["optimizer"],
        "way": way,
        "members": rows[0]["members"],
        "microseconds": round(harness, 2),
        "plain_microseconds": round(plain, 2),
        "overhead": round(1 - plain / harness, 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["rastrigin-2", "digits-mlp"])
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--members", type=int, default=29)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    entry, rows = get_entry(options.optimizer), []
    for name in options.tasks:
        task = get_task(name, seed=SEED)
        task.evaluate = lambda params: {"loss": 0.0}  # validation is the task's, and left out
        cells = cells_of(name, entry, options.members, options.steps)
        alone = {
            "harness": lambda task=task, cells=cells: run_cell(task, entry, cells[0]),
            "plain": lambda task=task, cells=cells: plain_alone(task, entry, cells[0]),
        }
        together = {
            "harness": lambda task=task, cells=cells: run_group(task, entry, cells),
            "plain": lambda task=task, cells=cells: plain_together(task, entry, cells),
        }
        for way, functions, members in (("alone", alone, 1), ("population", together, len(cells))):
            best = least_seconds(functions, options.rounds)
            unit = 1e6 / (options.steps * members)
            rows.append(
                {
                    "task": name,
                    "optimizer": entry.name,
                    "way": way,
                    "members": members,
                    "microseconds": round(best["harness"] * unit, 2),
                    "plain_microseconds": round(best["plain"] * unit, 2),
                    "overhead": round(1 - best["plain"] / best["harness"], 4),
                }
            )
    for way in ("alone", "population") if len(options.tasks) > 1 else ():
        rows.append(together_row(way, [row for row in rows if row["way"] == way]))
    table = Table("task", "way", "µs a step and run", "plain loop", "overhead")
    for row in rows:
        numbers = (f"{row['microseconds']:.1f}", f"{row['plain_microseconds']:.1f}", f"{row['overhead']:.1%}")
        table.add_row(str(row["task"]), str(row["way"]), *numbers)
    Console().print(table)
    print(json.dumps({"steps": options.steps, "rows": rows}))


if __name__ == "__main__":
    main()
