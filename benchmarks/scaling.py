"""How a synchronous outer step scales to 10,000 workers: what is measured here, and a simulation of the rest.

Measured: the processor time of a unit's windows; the time that every process spends on a unit that is not its
own, with the code of the engine; the time per random number; memory per pair. Simulated: the slowest of N
workers with heavy-tailed stragglers, the exchange, and failures with restarts from checkpoints. A worker has
one unit.

    python benchmarks/scaling.py --out results/scaling --plot-to docs/images/scaling.png

Prints tables; the last line is one JSON object.
"""

import io
import json
import math
import platform
import resource
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parents[1])  # where `benchmarks` is found

from benchmarks.workers import (  # noqa: E402
    DESIGNS,
    WAITS,
    WORKERS,
    Measured,
    World,
    dropping,
    simulate,
)
from learned_opt.rule import UpdateRule  # noqa: E402
from meta_train.config import MetaTrainConfig  # noqa: E402
from meta_train.estimators import Perturbation, draw  # noqa: E402
from meta_train.flat import flatten  # noqa: E402
from meta_train.fleet import Fleet  # noqa: E402
from meta_train.ranks import Ranks  # noqa: E402
from meta_train.unit import REPORT, Moment, Unit  # noqa: E402
from tasks.benchmark.report.palette import REFERENCE, SERIES  # noqa: E402
from tasks.benchmark.report.plots import new_row, png  # noqa: E402
from tasks.files import atomic_write_bytes, atomic_write_text, writable_folder  # noqa: E402

WORLD = World()
DASHES = dict(zip(DESIGNS, ("--", "-"), strict=True))


class Absent(Ranks):
    """A process that owns no unit and hears zeros of all of them."""

    def owns(self, index: int) -> bool:
        """None."""
        return False

    def rows(self, own: object, count: int) -> list[Tensor]:
        """As if all units had reported."""
        return list(torch.zeros(count, self.width))


def measure(config: MetaTrainConfig, windows: int, units: int) -> Measured:
    """Time the engine's own code, in processor seconds, so that what else the machine does matters little."""
    rule = UpdateRule(config.rule)
    like = rule.init_meta()
    theta = flatten(like)
    numbers, pairs = theta.numel(), config.unit_size
    unit = Unit(0, config.families[0], config, rule, like)
    generator = torch.Generator().manual_seed(0)
    seconds = []
    for _ in range(windows + 3):
        noise = draw(pairs, numbers, sigma=config.sigma, generator=generator)
        held = Perturbation(noise, noise)
        start = time.process_time()
        unit.evolve(theta, held, held, Moment(config.horizon[1]))
        seconds.append(time.process_time() - start)
    start = time.process_time()
    for _ in range(20):
        draw(1000, numbers, sigma=1.0, generator=generator)
    per_number = (time.process_time() - start) / (20 * 1000 * numbers)
    absent = Absent()
    absent.width = pairs * len(REPORT) + 2
    many = replace(config, pairs=units * pairs, unit_pairs=pairs)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fleet = Fleet(many, rule, like, absent)
    spent = []
    for step in range(5):
        start = time.process_time()
        fleet.advance(theta, step)
        spent.append(time.process_time() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    buffer = io.BytesIO()
    torch.save(unit.state_dict(), buffer)
    return Measured(
        windows=np.array(seconds[3:]),
        foreign=float(np.median(spent)) / units,
        per_number=per_number,
        bytes_per_pair=1024 * grown / many.pairs,
        state=buffer.tell(),
        numbers=numbers,
        pairs=pairs,
        report=len(REPORT),
    )


def plot(rows: list[dict[str, float | str]], path: Path) -> None:
    """Efficiency by policy and design, and where the time of a step goes."""
    figure, (left, right) = new_row(["Efficiency", "Where a step's time goes"], width=9.4, height=4.2)
    for policy, color in zip(WAITS, SERIES, strict=False):
        for design, style in DASHES.items():
            chosen = [row for row in rows if row["policy"] == policy and row["design"] == design]
            values = [float(row["efficiency"]) for row in chosen]
            left.plot(WORKERS, values, style, color=color, label=f"{policy}, {design}")
    waiting = [row for row in rows if row["policy"] == "wait for all"]
    for part, color in zip(("computing", "exchange", "bookkeeping"), (REFERENCE, *SERIES[4:]), strict=False):
        for design, style in DASHES.items():
            seconds = [float(row[part]) for row in waiting if row["design"] == design]
            above = [value if value > 0 else math.nan for value in seconds]  # alone, nothing is exchanged
            name = "slowest worker" if part == "computing" else f"{part}, {design}"
            if part != "computing" or design == DESIGNS[0]:
                right.plot(WORKERS, above, "-" if part == "computing" else style, color=color, label=name)
    for axes, label in ((left, "share of the time of N free workers"), (right, "seconds of an outer step")):
        axes.set(xscale="log", xlabel="workers, one unit each", ylabel=label)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=8.5)
    left.set_ylim(0, 1)
    right.set_yscale("log")
    atomic_write_bytes(path, png(figure))


def main(
    out: Path = Path("results/scaling"),
    plot_to: Path = Path("docs/images/scaling.png"),
    windows: int = 60,
    units: int = 1000,
    compiled: bool = True,
    world: World = WORLD,
) -> None:
    """Measure, simulate, print.

    Args:
        out: Folder for ``scaling.json``.
        plot_to: The picture.
        windows: Measured of one unit.
        units: Of the run that foreign units are measured with.
        compiled: Compile the unit's inner step.
        world: Assumptions.
    """
    torch.set_num_threads(1)
    config = MetaTrainConfig(families=("digits-mlp-32",), pairs=8, compiled=compiled)
    measured = measure(config, windows, units)
    rows, drops = simulate(measured, world), dropping(np.random.default_rng(1))
    quantiles = np.quantile(measured.windows, [0.05, 0.5, 0.95]).round(4).tolist()
    figures = {
        "window_seconds": quantiles,
        "foreign_unit_seconds": measured.foreign,
        "seconds_per_number": measured.per_number,
        "bytes_per_pair": measured.bytes_per_pair,
        "unit_checkpoint_bytes": measured.state,
        "bytes_per_unit_and_receiver": measured.row,
        "own_share_ends_at_workers": round(float(np.median(measured.windows)) / measured.foreign),
        "numbers": measured.numbers,
        "pairs": measured.pairs,
        "compiled": compiled,
        "world": asdict(world),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    for row in rows:
        print("  ".join(f"{value:.4f}" if isinstance(value, float) else f"{value}" for value in row.values()))
    for drop in drops:
        print("  ".join(f"{name} {value:.4f}" for name, value in drop.items()))
    plot(rows, plot_to)
    text = json.dumps(figures | {"steps": rows, "dropping": drops}, indent=1) + "\n"
    atomic_write_text(writable_folder(out) / "scaling.json", text)
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
