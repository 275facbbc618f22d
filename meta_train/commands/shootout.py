"""``learned-opt shootout``: memories of one size against each other."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table

from learned_opt import load_checkpoint
from meta_train.commands import Stopped, parse
from meta_train.commands.bench import Names, Rates, numbers, split
from meta_train.commands.devices import require_device
from meta_train.commands.display import console, refuse_failures, say, shown
from meta_train.commands.running import run_with_display
from meta_train.entries import learned_entry
from meta_train.local_group import usable_processors
from meta_train.loop import Interrupted
from meta_train.shootout import CONTENDERS, LABELS, SHOOTOUTS, MetaRun, plan
from meta_train.shootout_report import REFERENCE_ENTRY, Shootout, figure_text, write_shootout
from meta_train.state import has_state
from tasks import get_task
from tasks.benchmark import Entry, check_benchmark, get_entry, log_grid, run_benchmark
from tasks.files import writable_folder

TIME_LIMIT = 600.0
"""Seconds for a group of the benchmark's runs."""


@dataclass(frozen=True)
class ShootoutCommand:
    """Meta-train one rule with different memories, alike in all else, and benchmark all of them beside Adam.

    The memories have the same number of floats a parameter and the same head. Writes index.html, results.json
    and summary.md. What the folder already holds is not done again, so a stopped shoot-out goes on when it is
    called again.

    Args:
        preset: Of the meta-training of each: tiny (some minutes a run), small (half an hour) or micro
            (seconds, to try it).
        memories: Of flt, flt-spectrum, flt-v1, performer, s4d, lstm, moments.
        meta_seeds: Number of meta-training runs of each memory, a seed each.
        tasks: Tasks to judge on, none that the preset trains or validates on.
        seeds: Number of seeds of the benchmark.
        seed: The first of both.
        steps: Length of every benchmark run; by default what suits each task.
        lrs: Learning rates for all; by default 14 from 1e-4 to 1.
        schedules: Of constant, cosine and warmup-cosine.
        workers: Processes; by default one for each processor.
        device: Where to compute, cpu or cuda.
        out: Folder; by default runs/shootout-PRESET.
    """

    preset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET")]
    memories: Names = tuple(CONTENDERS)
    meta_seeds: int = 3
    tasks: Names = ("rastrigin-2", "rastrigin-10", "digits-vit")
    seeds: int = 5
    seed: int = 0
    steps: int | None = None
    lrs: Rates = ()
    schedules: Names = ("constant", "warmup-cosine")
    workers: int | None = None
    device: str = "cpu"
    out: Path | None = None

    def __post_init__(self) -> None:
        for name in ("meta_seeds", "seeds", "steps", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")

    @property
    def folder(self) -> Path:
        """Where all of it goes."""
        return self.out or Path("runs") / f"shootout-{self.preset}"


def run(options: Sequence[str]) -> None:
    """Run the subcommand."""
    command = parse(ShootoutCommand, "shootout", options)
    require_device(command.device)
    folder, first = command.folder, command.seed
    runs = plan(command.preset, split(command.memories), range(first, first + command.meta_seeds), folder)
    benchmark = _benchmark(command)
    check_benchmark(entries=[REFERENCE_ENTRY], **benchmark)
    for task in benchmark["tasks"]:
        get_task(task)
    writable_folder(folder)
    again = shlex.join(["learned-opt", "shootout", *options])
    _meta_train(command, runs, again)
    results = run_benchmark(entries=[get_entry(REFERENCE_ENTRY), *map(_entry, runs)], **benchmark)
    shootout = Shootout.of(command.preset, runs, results)
    write_shootout(shootout, folder)
    _print(shootout)
    say(f"Page: {shown(folder / 'index.html')}")
    say(f"Data: {shown(folder / 'results.json')}")
    refuse_failures(results)


def _meta_train(command: ShootoutCommand, runs: Sequence[MetaRun], again: str) -> None:
    """Finish every run; all are checked before the first goes on."""
    missing = [one for one in runs if not one.finished()]
    for index, one in enumerate(missing, start=1):
        say(f"[bold]{LABELS[one.memory]}[/], meta-seed {one.seed}: run {index} of {len(missing)} to do")
        try:
            run_with_display(
                one.config,
                one.folder,
                resume=has_state(one.folder),
                workers=command.workers,
                device=command.device,
            )
        except Interrupted as stop:
            raise Stopped(f"{stop}. To go on: {again}") from None


def _benchmark(command: ShootoutCommand) -> dict[str, Any]:
    """All that `run_benchmark` takes but the entries.

    Raises:
        ValueError: If a task is one that the memories learn from, or a learning rate is no number.
    """
    tasks, config = split(command.tasks), SHOOTOUTS[command.preset]
    if seen := [task for task in tasks if task in {*config.families, *config.validation}]:
        raise ValueError(
            f"shoot-out {command.preset} meta-trains or validates on {', '.join(seen)}; "
            "expected other tasks to judge on"
        )
    rates = numbers(command.lrs)
    return {
        "tasks": tasks,
        "seeds": range(command.seed, command.seed + command.seeds),
        "steps": command.steps,
        "schedules": split(command.schedules),
        "learning_rates": log_grid() if rates is None else rates,
        "references": (REFERENCE_ENTRY,),
        "suite": "",
        "select": "train",
        "workers": command.workers or usable_processors(),
        "time_limit": TIME_LIMIT,
        "device": command.device,
        "out": command.folder / "benchmark",
    }


def _entry(one: MetaRun) -> Entry:
    label = f"{LABELS[one.memory]}, meta-seed {one.seed}"
    return learned_entry(one.name, load_checkpoint(one.folder), label=label)


def _print(shootout: Shootout) -> None:
    shape = Table(box=SIMPLE_HEAD, header_style="dim")
    shape.add_column("speed-up over Adam")
    for title in ("all", *shootout.results.tasks):
        shape.add_column(title, justify="right")
    for score in shootout.ranked():
        figures = (score.speedup, *score.by_task.values())
        shape.add_row(LABELS[score.memory], *(figure_text(figure, "x") for figure in figures))
    console.print(shape)
