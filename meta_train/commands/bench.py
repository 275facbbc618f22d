"""``learned-opt bench``: optimizers against each other, on equal terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.markup import escape

from meta_train.commands import parse
from meta_train.commands.devices import require_device
from meta_train.commands.display import console, refuse_failures, say, shown
from meta_train.entries import LearnedFactory, entries
from meta_train.local_group import usual_workers
from tasks import Task
from tasks.benchmark import Entry, Suite, get_suite, run_benchmark, terminal_table
from tasks.benchmark.settings import Select

Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME,...")]
Rates = Annotated[tuple[str, ...], tyro.conf.arg(metavar="LR,...")]

LEARNED = ("flt",)
FREE = Suite("", "a free choice", {"digits-vit": 0, "rastrigin-10": 0}, ("adam",), ("adam",))
"""What runs without a suite; its tasks at their own default numbers of steps."""


@dataclass(frozen=True)
class BenchCommand:
    """Benchmark optimizers: every one on every task at every learning rate, schedule and seed.

    Equal seeds start from the same weights and see the same batches. Prints a table and writes results.json,
    plots, tables and index.html. Runs that the folder already holds are not run again, so an interrupted
    benchmark goes on when it is called again.

    Args:
        suite: smoke (a minute), quick (some minutes), core (about two hours on two cores), long or
            imagenet; a choice of tasks and budget whose results can be compared. Other tasks, seeds, steps,
            learning rates, schedules, references or selection make it a free choice again; optimizers, their
            weight decay and the device do not.
        optimizers: adam, adamw, sgd, any of timm's (lion, muon, ...) or of pytorch-optimizer (soap, ...), flt
            or another learned optimizer that ships (flt-small, flt-rastrigin), folders of saved ones,
            celo:PATH with Celo's published weights, or module:callable for your own. The references always
            take part; by default the suite's baselines and flt.
        tasks: Tasks by name, such as digits-vit, digits-mlp, fashion-mlp or rastrigin-10; by default the
            suite's, or digits-vit and rastrigin-10.
        weight_decay: Decoupled weight decay of learned optimizers; all others have their own defaults.
        seeds: Number of seeds, by default 5.
        seed: The first of them.
        steps: Length of every run; by default the suite's, or what suits each task.
        lrs: Learning rates for all; by default each one's own 14 (Adam 1e-4 to 1) and its default.
        schedules: Of constant, cosine and warmup-cosine; by default the first and the last.
        references: The optimizers over the best of which speed-ups are figured; by default adam and, in a
            suite, adamw.
        select: What the best setting is chosen by: train, the final training loss, or validation.
        data: Folder of images, one subfolder a class, for the tasks of the suite imagenet.
        workers: Processes; 0 for none beside this one. By default one for each processor, at most 8.
        device: Where to compute, cpu or cuda; by default what the suite is meant for.
        time_limit: Seconds that a run may take before it is stopped and counted as failed.
        out: Folder for the results; by default runs/bench, or runs/bench-SUITE.
    """

    suite: tyro.conf.Positional[str] = ""
    optimizers: Names = ()
    tasks: Names = ()
    weight_decay: float = 0.0
    seeds: int | None = None
    seed: int = 0
    steps: int | None = None
    lrs: Rates = ()
    schedules: Names = ()
    references: Names = ()
    select: Select = "train"
    data: Path | None = None
    workers: int = field(default_factory=usual_workers)
    device: str | None = None
    time_limit: float = 3600.0
    out: Path | None = None


def run(options: Sequence[str]) -> None:
    """Run the subcommand."""
    command = parse(BenchCommand, "bench", options)
    out, settings = arguments(command)
    for line in known_tasks(settings["entries"], _names(settings["tasks"])):
        say(f"[yellow]{escape(line)}[/]")
    results = run_benchmark(**settings)
    console.print(terminal_table(results))
    say(f"Page: {shown(out / 'index.html')}")
    say(f"Data: {shown(out / 'results.json')}")
    refuse_failures(results)


def arguments(command: BenchCommand) -> tuple[Path, dict[str, Any]]:
    """The folder and all that `run_benchmark` takes.

    Raises:
        ValueError: If a name is unknown or a number out of range, before anything runs.
    """
    suite = get_suite(command.suite) if command.suite else FREE
    device = command.device or suite.device
    require_device(device)
    if command.seeds is not None and command.seeds < 1:
        raise ValueError(f"seeds is {command.seeds}; expected at least 1")
    count = command.seeds or suite.seeds
    references = tuple(dict.fromkeys(split(command.references))) or suite.references
    chosen = split(command.optimizers) or [*suite.baselines, *LEARNED]
    if not 0 <= command.weight_decay < inf:
        raise ValueError(f"weight_decay is {command.weight_decay}; expected a finite number of at least 0")
    contestants = entries(list(dict.fromkeys((*references, *chosen))), command.weight_decay)
    names = tuple(entry.name for entry in contestants[: len(references)])
    if suite.thinning > 1:
        contestants = [replace(entry, learning_rates=suite.rates(entry)) for entry in contestants]
    out = command.out or Path("runs") / "-".join(filter(None, ("bench", suite.name)))
    tasks = _tasks(command, suite)
    settings = {
        "tasks": tasks,
        "seeds": range(command.seed, command.seed + count),
        "steps": {task: steps for task, steps in suite.steps.items() if steps and task in _names(tasks)}
        if command.steps is None
        else command.steps,
        "schedules": split(command.schedules) or suite.schedules,
        "learning_rates": numbers(command.lrs),
        "references": names,
        "select": command.select,
    }
    return out, {
        **settings,
        "entries": contestants,
        "suite": suite.name if _is_of(suite, settings) else "",
        "workers": command.workers,
        "device": device,
        "time_limit": command.time_limit,
        "out": out,
    }


def _tasks(command: BenchCommand, suite: Suite) -> list[str | Task]:
    tasks: list[str | Task] = list(split(command.tasks))
    if command.data is not None and (tasks or suite.folder_tasks is None):
        raise ValueError(
            f"data is {str(command.data)!r}; expected none, as no task here reads a folder of images: "
            "those of the suite imagenet do, without --tasks"
        )
    return tasks or suite.tasks(command.data)


def _names(tasks: Sequence[str | Task]) -> list[str]:
    return [task if isinstance(task, str) else task.name for task in tasks]


def _is_of(suite: Suite, settings: Mapping[str, Any]) -> bool:
    """Whether settings are a suite's in all that figures depend on; the order of names does not count."""
    given = settings["steps"]
    steps = given if isinstance(given, dict) else dict.fromkeys(suite.steps, given)
    return (
        set(_names(settings["tasks"])) == set(suite.steps)
        and list(settings["seeds"]) == list(range(suite.seeds))
        and steps == suite.steps
        and set(settings["schedules"]) == set(suite.schedules)
        and settings["learning_rates"] is None
        and set(settings["references"]) == set(suite.references)
        and settings["select"] == "train"
    )


def known_tasks(contestants: Sequence[Entry], tasks: Sequence[str]) -> list[str]:
    """A line for each learned optimizer whose meta-training saw tasks that it is now judged on."""
    lines = []
    for entry in contestants:
        facts = entry.factory.checkpoint.facts if isinstance(entry.factory, LearnedFactory) else {}
        recorded = facts.get("meta_training")
        training: dict[str, Any] = recorded if isinstance(recorded, dict) else {}
        lists = [training.get(name) for name in ("families", "validation")]
        seen = [task for names in lists if isinstance(names, list) for task in names]
        if known := [task for task in tasks if task in seen]:
            lines.append(f"{entry.name} was meta-trained or validated on {', '.join(known)}.")
    return lines


def split(words: Sequence[str]) -> list[str]:
    """The parts of words that may hold commas."""
    return [part for word in words for part in word.split(",") if part]


def numbers(words: Sequence[str]) -> list[float] | None:
    """The learning rates among words that may hold commas; None without a word."""
    if not words:
        return None
    try:
        return [float(part) for part in split(words)]
    except ValueError:
        raise ValueError(f"lrs is {','.join(words)}; expected numbers separated by commas") from None
