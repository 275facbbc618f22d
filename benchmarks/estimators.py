"""Every estimator of the meta-gradient against the truth, and its noise against the truncation length.

The two inner problems are those of `benchmarks/quadratics.py`; episodes last 100 steps.

The objects that meta-training uses make the estimates: pairs in groups of 8, as a unit of work has them, and
what a group's windows give is summed over as many episodes as end together with a window. Windows of 40 and
75 steps do not divide an episode, so that episodes begin inside them. Whatever theory calls unbiased must be
within 4 standard errors of the truth in every meta-parameter, or the script fails.

Prints tables, draws a plot; the last line is one JSON object.

    python benchmarks/estimators.py --out results/estimators --plot docs/images/estimators.png
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import vmap

sys.path[0] = str(Path(__file__).resolve().parents[1])  # where `benchmarks` is found

from benchmarks.quadratics import HORIZON, LinearSystem, NoisyQuadratic, Problem, State  # noqa: E402
from meta_train.estimators import EVOLUTION, Perturbation, combine, draw, shaped  # noqa: E402
from meta_train.estimators.backprop import differentiate  # noqa: E402
from tasks.benchmark.report.palette import GRID, REFERENCE, SERIES  # noqa: E402
from tasks.benchmark.report.plots import new_figure, png  # noqa: E402
from tasks.files import atomic_write_bytes, atomic_write_text, writable_folder  # noqa: E402

WINDOWS = (1, 2, 5, 10, 20, 40, 50, 75, 100)
PAIRS = 8
SIGMA = 0.01
LARGEST_DEVIATION = 4.0


@dataclass(frozen=True)
class Options:
    """Estimates and truth.

    Args:
        groups: Independent groups of 8 pairs for each figure.
        seed: Of all noise.
        out: Folder for the JSON object.
        plot: File for the plot.
    """

    groups: int = 3000
    seed: int = 0
    out: Path | None = None
    plot: Path | None = None


@dataclass(frozen=True)
class Row:
    """What an estimator gave at one truncation length.

    Attributes:
        problem: The inner problem.
        estimator: Its name.
        window: Truncation length.
        unbiased: Whether theory says so.
        mean: Per episode, in units of the truth's norm.
        truth: In these units.
        deviation: Largest distance of an element of the mean from the truth, in standard errors; 0 where
            they are equal to rounding.
        bias: Norm of mean minus truth.
        cosine: Of the angle between mean and truth.
        variance: Total variance of the estimate from 8 pairs over one episode's inner steps.
        noise: The same over the squared norm of the mean.
    """

    problem: str
    estimator: str
    window: int
    unbiased: bool
    mean: list[float]
    truth: list[float]
    deviation: float
    bias: float
    cosine: float
    variance: float
    noise: float


def measured(
    problem: Problem, name: str, window: int, unbiased: bool, sums: Tensor, episodes: int, truth: Tensor
) -> Row:
    """Summarise the sums over ``episodes`` episodes of independent groups, ``[G, M]``."""
    estimates = sums / episodes / truth.norm()
    unit = truth / truth.norm()
    mean = estimates.mean(0)
    variance = estimates.var(0)
    error = (variance / len(estimates)).sqrt().clamp_min(1e-12)
    deviation = ((mean - unit).abs() / error * ((mean - unit).abs() > 1e-12)).max().item()
    total = variance.sum().item() * episodes
    return Row(
        problem.name,
        name,
        window,
        unbiased,
        mean.tolist(),
        unit.tolist(),
        deviation,
        (mean - unit).norm().item(),
        (mean @ unit / mean.norm()).item(),
        total,
        total / mean.square().sum().item(),
    )


def episodes_until_aligned(window: int) -> int:
    """Episodes after which one ends together with a window."""
    return math.lcm(window, HORIZON) // HORIZON


@torch.no_grad()
def evolve(problem: Problem, name: str, window: int, options: Options) -> dict[bool, Tensor]:
    """Sums over all windows of what `combine` gives for each group, ``[G, M]``, without and with shaping."""
    estimator, generator = EVOLUTION[name], torch.Generator().manual_seed(options.seed)
    groups, size = (options.groups, PAIRS), len(problem.theta)
    pairs = math.prod(groups)
    held, over = Perturbation.none(pairs, size), torch.ones(pairs, dtype=torch.bool)
    sums = {shaping: torch.zeros(options.groups, size) for shaping in (False, True)}
    state: State = ()
    for start in range(0, episodes_until_aligned(window) * HORIZON, window):
        drawn = draw(pairs, size, sigma=SIGMA, generator=generator)
        renewed = estimator.episode(drawn, SIGMA)
        carried = renewed.where(over, estimator.window(held, drawn, SIGMA))
        differences, held = torch.zeros(2, *groups), carried
        for t in range(start, start + window):
            if t % HORIZON == 0:
                state = problem.start(*groups, generator=generator)
                held = carried if t == start else renewed
            noise = held.noise.reshape(*groups, size)
            meta = problem.theta + torch.stack([noise, -noise])
            batch = problem.batches(*groups, generator=generator)
            state, loss = problem.advance(meta, state, batch, first_order=False)
            differences[int(held is not carried)] += loss[0] - loss[1]
        over = torch.full((pairs,), (start + window) % HORIZON == 0)
        scores = torch.stack([carried.score, renewed.score]).reshape(2, *groups, size).transpose(0, 1)
        differences = differences.transpose(0, 1)
        for shaping, total in sums.items():
            total += vmap(combine)(scores, vmap(shaped)(differences) if shaping else differences)[0]
    return sums


def backpropagate(problem: Problem, window: int, options: Options, *, first_order: bool) -> Tensor:
    """Sums over all windows of the gradients of each group's mean over members, ``[G, M]``."""
    generator = torch.Generator().manual_seed(options.seed)
    groups = (options.groups, PAIRS)
    theta = problem.theta.expand(options.groups, -1)
    sums, carried = torch.zeros_like(theta), problem.start(*groups, generator=generator)
    for start in range(0, episodes_until_aligned(window) * HORIZON, window):
        steps = range(start, start + window)
        births = {t: problem.start(*groups, generator=generator) for t in steps if t % HORIZON == 0}
        batches = problem.batches(window, *groups, generator=generator)

        def segment(
            leaf: Tensor, state: State, first: int, last: int, steps=steps, births=births, batches=batches
        ) -> tuple[Tensor, State]:
            total = torch.zeros(())
            for index in range(first, last):
                state = births.get(steps[index], state)
                state, loss = problem.advance(leaf[:, None], state, batches[index], first_order=first_order)
                total = total + loss.sum() / PAIRS
            return total, state

        gradient, _, carried = differentiate(segment, theta, carried, window)
        sums = sums + gradient
    return sums


def rows_of(problem: Problem, options: Options) -> Iterator[Row]:
    """Every estimator at every truncation length."""
    truth = problem.truth()

    def row(name: str, window: int, unbiased: bool, sums: Tensor) -> Row:
        return measured(problem, name, window, unbiased, sums, episodes_until_aligned(window), truth)

    for window in WINDOWS:
        whole = window == HORIZON
        for name in ("pes", "nres", "full-es" if whole else "es"):
            sums = evolve(problem, name, window, options)
            yield row(name, window, name != "es", sums[False])
            yield row(f"{name}, shaped", window, False, sums[True])
        for first_order in problem.first_order:
            name = "backprop" + (", first order" if first_order else "")
            gradients = backpropagate(problem, window, options, first_order=first_order)
            yield row(name, window, whole and not first_order, gradients)


FIGURES: dict[str, Callable[[Row], str]] = {
    "|mean - truth| / |truth|": lambda row: f"{row.bias:.3f}",
    "distance from the truth in standard errors, where there should be none": lambda row: (
        f"{row.deviation:.1f}" if row.unbiased else "-"
    ),
    "cosine between mean and truth": lambda row: f"{row.cosine:.3f}",
    "variance / |truth|²": lambda row: f"{row.variance if row.variance > 1e-12 else 0:.2g}",
    "variance / |mean|²": lambda row: f"{row.noise if row.noise > 1e-12 else 0:.2g}",
}


def show(rows: list[Row], problem: str, title: str, cell: Callable[[Row], str], console: Console) -> None:
    """Print one figure of every estimator of a problem against truncation length."""
    table = Table("estimator", title=f"{problem}: {title}")
    for window in WINDOWS:
        table.add_column(f"{window}", justify="right")
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        if row.problem == problem:
            cells.setdefault(row.estimator.replace("full-es", "es"), {})[row.window] = cell(row)
    for name, found in sorted(cells.items()):
        table.add_row(name, *(found.get(window, "") for window in WINDOWS))
    console.print(table)


def draw_plot(rows: list[Row]) -> Figure:
    """Variance above and bias below, against truncation length, one column a problem."""
    figure, _ = new_figure(width=9.4, height=6.0)
    figure.clear()
    problems = list(dict.fromkeys(row.problem for row in rows))
    names = ("pes", "nres", "es", "backprop", "backprop, first order")
    axes = figure.subplots(2, len(problems), sharex=True, squeeze=False)
    for column, problem in enumerate(problems):
        for index, name in enumerate(names):
            found = [
                row
                for row in rows
                if row.problem == problem and row.estimator.replace("full-es", "es") == name
            ]
            windows = [row.window for row in found]
            style: dict[str, Any] = {"color": SERIES[index], "marker": "o", "markersize": 4, "label": name}
            variances = [row.variance if row.variance > 1e-12 else math.nan for row in found]
            axes[0, column].plot(windows, variances, **style)
            axes[1, column].plot(windows, [row.bias for row in found], **style)
        axes[0, column].set_title(problem)
        axes[0, column].set_xscale("log")
        axes[0, column].set_yscale("log")
        axes[1, column].set_xlabel("truncation length, inner steps")
        axes[1, column].axhline(0.0, color=REFERENCE, linewidth=0.8)
        axes[1, column].xaxis.set_major_formatter("{x:g}")
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color=GRID, linewidth=0.8)
        each.set_axisbelow(True)
    axes[0, 0].set_ylabel("variance / |truth|²")
    axes[1, 0].set_ylabel("|mean − truth| / |truth|")
    handles, labels = axes[1, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def main() -> None:
    """Run, print the tables and one JSON object."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    started = time.process_time()
    console = Console(width=130)
    rows = [row for problem in (LinearSystem(), NoisyQuadratic()) for row in rows_of(problem, options)]
    for problem in dict.fromkeys(row.problem for row in rows):
        for title, cell in FIGURES.items():
            show(rows, problem, title, cell, console)
    unbiased = [row for row in rows if row.unbiased]
    worst = max(row.deviation for row in unbiased)
    summary = {
        "horizon": HORIZON,
        "sigma": SIGMA,
        "groups": options.groups,
        "unbiased_checked": len(unbiased),
        "largest_deviation": round(worst, 2),
        "seconds": round(time.process_time() - started, 1),
    }
    if options.plot is not None:
        atomic_write_bytes(options.plot, png(draw_plot(rows)))
    if options.out is not None:
        described = summary | {"rows": [asdict(row) for row in rows]}
        atomic_write_text(
            writable_folder(options.out) / "estimators.json", json.dumps(described, indent=1) + "\n"
        )
    print(json.dumps(summary))
    if worst > LARGEST_DEVIATION:
        sys.exit(f"an unbiased estimator is {worst:.1f} standard errors from the truth")


if __name__ == "__main__":
    main()
