"""``learned-opt quickstart``: the whole loop in a few minutes."""

import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from learned_opt import Checkpoint, load_checkpoint
from meta_train.commands import Stopped, parse
from meta_train.commands.devices import require_device
from meta_train.commands.display import console, duration, refuse_failures, say, shown
from meta_train.commands.quickstart_page import write_quickstart_page
from meta_train.commands.running import run_with_display
from meta_train.entries import learned_entry, load_learned
from meta_train.local_group import usual_workers
from meta_train.loop import Interrupted
from meta_train.presets import PRESETS
from meta_train.state import has_state
from tasks.base import require_seed
from tasks.benchmark import (
    BenchmarkInterrupted,
    Entry,
    Results,
    get_entry,
    log_grid,
    run_benchmark,
    terminal_table,
)
from tasks.files import writable_folder

TASKS = ("digits-vit", "rastrigin-10")
RATES = log_grid(1e-3, 1.0, 7)
SCHEDULES = ("constant", "cosine")
NEW = "new"


@dataclass(frozen=True)
class QuickstartCommand:
    """See the whole loop in about five minutes.

    Trains a small Vision Transformer on handwritten digits, and 10-dimensional Rastrigin functions, with the
    learned optimizer that ships and with Adam at many learning rates; meta-trains a new optimizer for about a
    minute, saves it, reloads it and uses it in the same place; writes one page with all curves.

    Args:
        optimizer: The learned optimizer to show: flt (the one that ships), or the folder of a saved one.
        steps: Length of every run.
        seeds: Runs of every setting.
        outer_steps: Length of the meta-training.
        compiled: Compile the meta-training, which pays only for longer ones.
        workers: Processes; by default one for each processor, at most 8.
        device: Where to compute the runs, cpu or cuda.
        seed: First of the seeds, and that of the meta-training.
        out: Folder for everything.
    """

    optimizer: str = "flt"
    steps: int = 200
    seeds: int = 2
    outer_steps: int = PRESETS["tiny"].outer_steps
    compiled: bool = False
    workers: int = field(default_factory=usual_workers)
    device: str = "cpu"
    seed: int = 0
    out: Path = Path("runs/quickstart")

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "outer_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        require_seed(self.seed)


def run(options: Sequence[str]) -> None:
    """Run the subcommand."""
    started = time.monotonic()
    command = parse(QuickstartCommand, "quickstart", options)
    require_device(command.device)
    shipped = load_learned(command.optimizer)
    writable_folder(command.out)
    try:
        _run(command, shipped, started)
    except (Interrupted, BenchmarkInterrupted):
        again = shlex.join(["learned-opt", "quickstart", *options])
        raise Stopped(f"Stopped; finished runs are kept in {command.out}. To go on: {again}") from None


def _run(command: QuickstartCommand, shipped: Checkpoint, started: float) -> None:
    entries = [
        replace(get_entry("adam"), learning_rates=RATES),
        replace(learned_entry("flt", shipped, label="FLT"), learning_rates=RATES),
    ]
    say(
        f"[bold]1/3[/] {' and '.join(TASKS)}: Adam and the learned optimizer, "
        f"each at {len(RATES)} learning rates, {' and '.join(SCHEDULES)}"
    )
    _benchmark(command, entries)
    say("[bold]2/3[/] Meta-training a new optimizer, starting from Adam")
    folder = _meta_train(command)
    say(f"[bold]3/3[/] The new optimizer, reloaded from {shown(folder)}, in the same place")
    new = load_checkpoint(folder)
    entries.append(replace(learned_entry(NEW, new, label="new"), learning_rates=RATES))
    results = _benchmark(command, entries)
    page = command.out / "index.html"
    write_quickstart_page(page, results, {"FLT": shipped, "the new optimizer": new}, folder)
    console.print(terminal_table(results))
    _say_what_next(page, folder, time.monotonic() - started)
    refuse_failures(results)


def _benchmark(command: QuickstartCommand, entries: Sequence[Entry]) -> Results:
    return run_benchmark(
        TASKS,
        entries,
        seeds=range(command.seed, command.seed + command.seeds),
        steps=command.steps,
        schedules=SCHEDULES,
        out=command.out / "benchmark",
        workers=command.workers,
        device=command.device,
    )


def _meta_train(command: QuickstartCommand) -> Path:
    """Meta-train in a folder of its own, in place of what an earlier quickstart left there."""
    folder = command.out / "new-optimizer"
    if has_state(folder):
        shutil.rmtree(folder)
    config = replace(
        PRESETS["tiny"],
        outer_steps=command.outer_steps,
        validation_every=max(1, command.outer_steps // 2),
        compiled=command.compiled,
        seed=command.seed,
    )
    return run_with_display(config, folder)


def _say_what_next(page: Path, folder: Path, seconds: float) -> None:
    say(f"[bold green]Done[/] in {duration(seconds)}. All curves and what the optimizers remember:")
    say(f"  {shown(page)}")
    say(f"The new optimizer is in {shown(folder)}.")
    say("Next:")
    say(f"  learned-opt inspect {shown(folder)}")
    say(f"  learned-opt train --data digits --opt {shown(folder)}")
    say("  learned-opt meta-train base   [dim]# one like that which ships, in about an hour[/]")
