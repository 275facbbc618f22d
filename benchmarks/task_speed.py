"""How many inner steps a second a population of tasks takes, against a plain loop over single modules.

Each inner step draws a batch, takes the gradient and applies Adam. Three ways, at populations of 1 and 16:

- the loop: one ``nn.Module`` after the other, each with its own ``torch.optim.Adam``, as written by hand;
- eager: parameters stacked, ``torch.func.vmap`` over the gradient of one task's loss, Adam on the stacks;
- compiled: the same, one graph for gradient and update, through ``torch.compile``.

The three take turns, several rounds in one process, so that what else the machine does meets all alike; a
figure is the median over rounds. Prints a table; the last line is one JSON object by family.

    python benchmarks/task_speed.py --out results/tasks-speed
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from tasks import MissingDatasetError, ModuleTask, Task, choose, get_task
from tasks.base import Batch, Params
from tasks.files import atomic_write_text, writable_folder

FAMILIES = {
    "image_mlp": "digits-mlp",
    "vit": "digits-vit",
    "image_conv": "digits-conv",
    "image_conv, residual": "digits-resnet",
    "autoencoder": "digits-autoencoder",
    "recurrent": "digits-gru",
    "language": "text-transformer",
    "teacher": "teacher",
    "rastrigin": "rastrigin-10",
    "quadratic": "quadratic",
}
WAYS = ("loop", "eager", "compiled")
LEARNING_RATE = 1e-3
BETAS = (0.9, 0.999)
EPSILON = 1e-8

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Options:
    """Inner steps a second.

    Args:
        families: Families to time, of those with a task each in this script.
        populations: Sizes of the population.
        rounds: Turns of each way.
        seconds: About how long a turn lasts.
        chunk: Batches that a population draws at once.
        threads: Threads of PyTorch; by default one for each core.
        out: Folder for the JSON object and a description of the machine.
    """

    families: tuple[str, ...] = tuple(FAMILIES)
    populations: tuple[int, ...] = (1, 16)
    rounds: int = 7
    seconds: float = 0.5
    chunk: int = 20
    threads: int = os.cpu_count() or 1
    out: Path | None = None


def loop(task: Task, population: int) -> Advance:
    """Single modules, or single sets of parameters where the task has no module."""
    generators = [torch.Generator().manual_seed(member) for member in range(population)]
    members = [_single(task, generator) for generator in generators]

    def advance(steps: int) -> None:
        for _ in range(steps):
            for (loss, optimizer), generator in zip(members, generators, strict=True):
                optimizer.zero_grad()
                loss(task.batch(generator)).backward()
                optimizer.step()

    return advance


def _single(
    task: Task, generator: torch.Generator
) -> tuple[Callable[[Batch], Tensor], torch.optim.Optimizer]:
    if isinstance(task, ModuleTask):
        module = task.factory().train()
        _fuse_attention(module)

        def loss(batch: Batch) -> Tensor:
            *inputs, target = batch
            return task.criterion(module(*inputs), target)

        return loss, torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    params = {name: value.requires_grad_() for name, value in task.init(generator).items()}
    return lambda batch: task.loss(params, batch), torch.optim.Adam(params.values(), lr=LEARNING_RATE)


def _fuse_attention(module: nn.Module) -> None:
    """Give timm's layers back the fused kernels that only ``vmap`` forbids."""
    for layer in module.modules():
        if hasattr(layer, "fused_attn"):
            layer.fused_attn = True


def adam_step(loss: Callable[[Params, Batch], Tensor]) -> Callable[..., None]:
    """Gradient and Adam's update in place of every member of a population, as one function."""
    gradient = vmap(grad_and_value(loss))
    fast, slow = BETAS

    def step(params: Params, first: Params, second: Params, batch: Batch, correction: Tensor) -> None:
        grads, _ = gradient(params, batch)
        for name, grad in grads.items():
            mean = first[name].lerp_(grad, 1 - fast) / correction[0]
            square = second[name].lerp_(grad.square(), 1 - slow) / correction[1]
            params[name].sub_(LEARNING_RATE * mean / (square.sqrt() + EPSILON))

    return step


def stacked(task: Task, population: int, *, chunk: int, compiled: bool) -> Advance:
    """A population as stacks of parameters; batches are drawn ``chunk`` at a time."""
    generators = [torch.Generator().manual_seed(member) for member in range(population)]
    starts = [task.init(generator) for generator in generators]
    params = {name: torch.stack([start[name] for start in starts]) for name in starts[0]}
    first, second = ({name: torch.zeros_like(value) for name, value in params.items()} for _ in BETAS)
    step = adam_step(task.loss)
    if compiled:
        step = torch.compile(step, dynamic=False, fullgraph=True)
    taken, waiting = 0, iter(())

    @torch.no_grad()
    def advance(steps: int) -> None:
        nonlocal taken, waiting
        for _ in range(steps):
            batch = next(waiting, None)
            if batch is None:
                waiting = _batches(task, generators, chunk)
                batch = next(waiting)
            taken += 1
            correction = torch.tensor([1 - beta**taken for beta in BETAS])
            step(params, first, second, batch, correction)

    return advance


def _batches(task: Task, generators: list[torch.Generator], chunk: int):
    drawn = [task.batches(generator, chunk) for generator in generators]
    stacks = tuple(torch.stack(parts, dim=1) for parts in zip(*drawn, strict=True))
    return zip(*(stack.unbind() for stack in stacks), strict=True)


def measure(task: Task, options: Options) -> dict[str, dict]:
    """Steps of single members a second, for every population and way, taken in turns."""
    contenders: dict[tuple[int, str], Advance] = {}
    for population in options.populations:
        contenders[population, "loop"] = loop(task, population)
        for way in WAYS[1:]:
            contenders[population, way] = stacked(
                task, population, chunk=options.chunk, compiled=way == "compiled"
            )
    lengths = {key: _length(advance, options) for key, advance in contenders.items()}
    rates: dict[tuple[int, str], list[float]] = {key: [] for key in contenders}
    for _ in range(options.rounds):
        for key, advance in contenders.items():
            started = time.perf_counter()
            advance(lengths[key])
            rates[key].append(key[0] * lengths[key] / (time.perf_counter() - started))
    return {str(population): _summary(population, rates) for population in options.populations}


def _length(advance: Advance, options: Options) -> int:
    """Whole chunks that take about as long as a turn should, after two to warm up."""
    advance(2 * options.chunk)
    started = time.perf_counter()
    advance(options.chunk)
    seconds = time.perf_counter() - started
    return options.chunk * max(1, round(options.seconds / seconds))


def _summary(population: int, rates: dict[tuple[int, str], list[float]]) -> dict[str, float]:
    loops = rates[population, "loop"]
    summary: dict[str, float] = {way: round(median(rates[population, way]), 1) for way in WAYS}
    for way in WAYS[1:]:
        ratios = [rate / base for rate, base in zip(rates[population, way], loops, strict=True)]
        summary[f"{way}/loop"] = round(median(ratios), 2)
        summary[f"{way}/loop, lowest"] = round(min(ratios), 2)
        summary[f"{way}/loop, highest"] = round(max(ratios), 2)
    return summary


def machine(threads: int, load: float) -> dict[str, str | int | float]:
    """What the figures were taken on, and how many processes wanted its cores in the minute before."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load before": round(load, 2),
        "load after": round(os.getloadavg()[0], 2),
    }


def show(results: dict[str, dict], console: Console) -> None:
    """Print the table."""
    table = Table(title="inner steps of single members a second, and times the loop at the same population")
    for column in ("family", "task", "population", "loop", "eager", "compiled"):
        table.add_column(column, justify="left" if column in ("family", "task") else "right")
    for family, result in results.items():
        for population, row in result["populations"].items():
            cells = [f"{row[way]:,.0f} ({row[f'{way}/loop']:.1f} x)" for way in WAYS[1:]]
            table.add_row(family, result["task"], population, f"{row['loop']:,.0f}", *cells)
    console.print(table)


def save(results: dict[str, dict], options: Options, load: float) -> None:
    """Write what is known so far."""
    described = {
        "machine": machine(options.threads, load),
        "options": asdict(options) | {"out": None},
        "families": results,
    }
    assert options.out is not None
    text = json.dumps(described, indent=2) + "\n"
    atomic_write_text(writable_folder(options.out) / "tasks-speed.json", text)


def main() -> None:
    """Run, print the table and one JSON object; a family that is done is saved at once."""
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    console = Console(width=120)
    results: dict[str, dict] = {}
    for family in options.families:
        try:
            task = get_task(choose("family", family, FAMILIES))
        except MissingDatasetError as error:
            console.print(f"{family} is left out: {error}")
            continue
        parameters = sum(math.prod(value.shape) for value in task.init(torch.Generator()).values())
        populations = measure(task, options)
        results[family] = {"task": task.name, "parameters": parameters, "populations": populations}
        console.print(f"{family} is done")
        if options.out is not None:
            save(results, options, load)
    show(results, console)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
