"""How many inner steps of single members a second meta-training takes, and what they are spent on.

Three ways to advance 16 members, 8 antithetic pairs, by windows of 20 steps:

- compiled: the engine, `meta_train.fleet.Fleet`, one compiled graph an inner step;
- eager: the same without compilation;
- plain: a loop over members as written by hand, ``torch.autograd`` and ``UpdateRule.update`` for each.

And two processes with one unit of 4 pairs each, which is how a run uses two cores. All take turns, several
rounds, so that what else the machine does meets all alike; figures are medians over rounds, ratios are taken
within a round. Beside wall-clock time stands the processor time of the process, which a busy machine changes
less. The script fails if anything is compiled again after the first windows.

Prints tables; the last line is one JSON object.

    python benchmarks/meta_throughput.py --out results/meta-throughput
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import tyro
from rich.console import Console
from rich.table import Table

sys.path[0] = str(Path(__file__).resolve().parents[1])  # where `benchmarks` is found

from benchmarks.inner_loops import PlainLoop, halves  # noqa: E402
from benchmarks.task_speed import machine  # noqa: E402
from learned_opt.rule import UpdateRule  # noqa: E402
from meta_train.config import MetaTrainConfig  # noqa: E402
from meta_train.flat import flatten  # noqa: E402
from meta_train.fleet import Fleet  # noqa: E402
from meta_train.local_group import local_group  # noqa: E402
from meta_train.ranks import Ranks  # noqa: E402
from tasks.files import atomic_write_text, writable_folder  # noqa: E402

WARM_UP = 3
"""Windows: the first of them begins all episodes."""


@dataclass(frozen=True)
class Options:
    """Inner steps a second of meta-training.

    Args:
        family: Whose tasks are trained.
        pairs: Antithetic pairs, twice as many members.
        truncation: Steps of a window.
        rounds: Turns of each way.
        windows: Windows of a turn; the plain loop takes one.
        processes: Processes that share the pairs, besides one alone.
        device: Where to compute.
        out: Folder for the JSON object and a description of the machine.
    """

    family: str = "digits-mlp-32"
    pairs: int = 8
    truncation: int = 20
    rounds: int = 9
    windows: int = 5
    processes: int = 2
    device: str = "cpu"
    out: Path | None = None

    @property
    def config(self) -> MetaTrainConfig:
        """Of the engine."""
        return MetaTrainConfig(families=(self.family,), pairs=self.pairs, truncation=self.truncation)


class Time(NamedTuple):
    """Seconds on the wall and of the processor."""

    wall: float
    processor: float


class Clock:
    """Measures what it is asked to run.

    Args:
        device: What to wait for before it is read.
    """

    def __init__(self, device: str) -> None:
        self.device, self.times = device, list[Time]()

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function and keep the time that it took."""
        wall, processor = time.perf_counter(), time.process_time()
        result = function(*arguments)
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.times.append(Time(time.perf_counter() - wall, time.process_time() - processor))
        return result

    def total(self) -> Time:
        """Of all that was run since this was last asked."""
        wall, processor = (sum(column) for column in zip(*self.times, strict=True))
        self.times.clear()
        return Time(wall, processor)


class Engine:
    """The engine.

    Args:
        config: Of the run.
        ranks: The processes.
        device: Where to compute.
    """

    def __init__(self, config: MetaTrainConfig, ranks: Ranks, device: str) -> None:
        rule = UpdateRule(config.rule)
        like = rule.init_meta()
        self.theta, self.step = flatten(like), 0
        self.fleet = Fleet(config, rule, like, ranks, device=device)

    def advance(self, windows: int) -> int:
        """Advance all units; the inner steps of members that were taken, over all processes."""
        steps = 0
        for _ in range(windows):
            steps += self.fleet.advance(self.theta, self.step % self.fleet.config.outer_steps).inner_steps
            self.step += 1
        return steps

    def parts(self, windows: int, device: str) -> dict[str, Time]:
        """Advance, with clocks around the inner steps, around what is drawn and around all."""
        (unit,) = self.fleet.units.values()
        step, plan = unit.inner_step, unit.episodes.plan
        inner, batches, everything = (Clock(device) for _ in range(3))
        unit.inner_step = partial(inner.run, step)
        unit.episodes.plan = partial(batches.run, plan)
        everything.run(self.advance, windows)
        unit.inner_step, unit.episodes.plan = step, plan
        return {"inner": inner.total(), "batches": batches.total(), "all": everything.total()}


class Together:
    """The pairs shared out over processes, each of which makes one of these.

    Args:
        options: Of the script.
        ranks: The processes.
    """

    def __init__(self, options: Options, ranks: Ranks) -> None:
        shared = replace(options.config, unit_pairs=options.pairs // ranks.size)
        self.ranks, self.engine = ranks, Engine(shared, ranks, options.device)
        self.processor = 0.0
        self.engine.advance(WARM_UP)
        self.graphs = self._everyone(graphs())

    def advance(self, windows: int) -> int:
        """Advance; ``processor`` is then the mean of what each process took of its own."""
        started = time.process_time()
        steps = self.engine.advance(windows)
        self.processor = self._everyone(time.process_time() - started) / self.ranks.size
        return steps

    def more_graphs(self) -> int:
        """Graphs compiled since the first windows, on all processes."""
        return round(self._everyone(graphs()) - self.graphs)

    def _everyone(self, number: float) -> float:
        return float(torch.stack(self.ranks.gather(torch.tensor([number], dtype=torch.float64))).sum())


def follow(options: Options, ranks: Ranks) -> None:
    """What the other processes do."""
    together = Together(options, ranks)
    for _ in range(options.rounds):
        together.advance(options.windows)
    together.more_graphs()


def graphs() -> int:
    """Graphs that this process has compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def measure(options: Options, ranks: Ranks) -> dict[str, Any]:
    """Every way in turns; medians over rounds."""
    engine = Engine(options.config, Ranks(), options.device)
    eager = Engine(replace(options.config, compiled=False), Ranks(), options.device)
    plain, parts, clock = (
        PlainLoop(options.config),
        halves(options.config, options.device),
        Clock(options.device),
    )
    for first, windows in ((engine, WARM_UP), (eager, 1), (plain, 1)):
        first.advance(windows)
    for half in parts.values():
        half()
    together = Together(options, ranks)
    ways: dict[str, Callable[[int], int]] = {
        "compiled": engine.advance,
        "eager": eager.advance,
        "plain": plain.advance,
        "together": together.advance,
    }
    rates, spent = {name: list[Time]() for name in ways}, list[dict[str, Time]]()
    for _ in range(options.rounds):
        for name, advance in ways.items():
            steps = clock.run(advance, options.windows if name in ("compiled", "together") else 1)
            wall, processor = clock.total()
            processor = together.processor if name == "together" else processor
            rates[name].append(Time(steps / wall, steps / processor))
        spent.append(engine.parts(options.windows, options.device))
        for name, half in parts.items():
            for _ in range(options.windows * options.truncation):
                clock.run(half)
            spent[-1][name] = clock.total()
    again = together.more_graphs()
    assert again == 0, f"{again} graphs were compiled after the first windows"
    return summary(rates, spent) | {"processes": ranks.size, "compiled_again": again}


def summary(rates: dict[str, list[Time]], spent: list[dict[str, Time]]) -> dict[str, Any]:
    """Medians over rounds, by both clocks; the inner step's share is split as its halves alone would be."""
    result: dict[str, Any] = {}
    for suffix, clock in (("", 0), ("_processor", 1)):
        found = {name: [each[clock] for each in series] for name, series in rates.items()}
        result["inner_steps_per_s" + suffix] = round(median(found["together"]), 1)
        for name in ("compiled", "eager", "plain"):
            result[f"{name}_per_s" + suffix] = round(median(found[name]), 1)
        for label, over, base in (
            ("ratio_to_eager", "compiled", "plain"),
            ("ratio_to_eager_engine", "compiled", "eager"),
            ("ratio_of_processes", "together", "compiled"),
        ):
            ratios = [rate / each for rate, each in zip(found[over], found[base], strict=True)]
            result[label + suffix] = round(median(ratios), 2)
        shares = [_shares({name: each[clock] for name, each in row.items()}) for row in spent]
        result["shares" + suffix] = {
            name: round(median(row[name] for row in shares), 3) for name in shares[0]
        }
    return result


def _shares(seconds: dict[str, float]) -> dict[str, float]:
    inner, whole = seconds["inner"], seconds["all"]
    task = seconds["task"] / (seconds["task"] + seconds["rule"])
    return {
        "task": inner * task / whole,
        "rule": inner * (1 - task) / whole,
        "batches": seconds["batches"] / whole,
        "estimator": (whole - inner - seconds["batches"]) / whole,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the figures."""
    table = Table("way", title="inner steps of single members a second")
    for column in ("of time", "times plain", "of processor time", "times plain"):
        table.add_column(column, justify="right")
    for name, title in (
        ("plain", "a loop over members"),
        ("eager", "the engine, eager"),
        ("compiled", "the engine"),
        ("inner_steps", f"the engine, {result['processes']} processes"),
    ):
        cells = []
        for suffix in ("", "_processor"):
            rate = result[f"{name}_per_s{suffix}"]
            cells += [f"{rate:,.0f}", f"{rate / result[f'plain_per_s{suffix}']:.1f}"]
        table.add_row(title, *cells)
    console.print(table)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in result["shares_processor"].items())
    console.print(f"of one process's time: {shares}; graphs compiled again: {result['compiled_again']}")


def main() -> None:
    """Run, print the figures and one JSON object."""
    options, load = tyro.cli(Options), os.getloadavg()[0]
    with local_group(options.processes, partial(follow, options), threads=1) as ranks:
        result = measure(options, ranks)
    show(result, Console(width=120))
    if options.out is not None:
        device = {} if options.device == "cpu" else {"device": torch.cuda.get_device_name()}
        described = {"machine": machine(1, load) | device, "options": asdict(options) | {"out": None}}
        path = writable_folder(options.out) / f"meta-throughput-{options.device}.json"
        atomic_write_text(path, json.dumps(described | {"result": result}, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
