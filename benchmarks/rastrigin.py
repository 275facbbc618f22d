"""A learned optimizer against tuned Adam, and against restarts of it, on all published Rastrigin functions.

For each form, dimension and number of steps, on the same functions and starts:

- Adam at 14 learning rates from 0.01 to 3, constant and cosine, beta1 of .9, .95 and .99; that of the lowest
  mean final value on these very functions, which favours Adam.
- Restarts: k runs of Adam that share the gradient evaluations, the best of which counts; k of 2, 5 and 20
  and all settings of Adam, or in 100 dimensions those of six rates, again the best on these very functions.
- The learned optimizer as it ships, at its default learning rate, told the number of steps; with `--rates` at
  others too.
- The oracle, that of `benchmarks/rastrigin_methods.py`. It is no lower bound: in 100 dimensions optimizers
  find lower values. So gaps are given to the least value that anything here found, too.

Intervals are of 95 %, by bootstrap over functions; p is of the Wilcoxon signed-rank test, one-sided, over
functions. What is of Adam and the oracle alone is kept in a folder and used again. Prints tables; the last
line is one JSON object.

    python benchmarks/rastrigin.py --out results/flt-rastrigin
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from scipy.stats import wilcoxon
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parents[1])  # where `benchmarks` is found

from benchmarks.rastrigin_methods import (  # noqa: E402
    MIDDLE,
    SETTINGS,
    Functions,
    Setting,
    adam,
    learned,
    oracle,
)
from tasks.files import atomic_write_text, writable_folder  # noqa: E402
from tasks.rastrigin import Form  # noqa: E402

RESTARTS = (2, 5, 20)
LARGE, LARGE_SHARE = 10, 4
"""Above so many dimensions the oracle has but a fourth of the starts."""
SAMPLES = 2000
TIE = 1e-3
"""Final values nearer than this are of one minimum, and nobody's win."""
LARGEST_RATIO, SMALLEST_SHARE, LARGEST_P = 0.5, 0.9, 1e-6
JUDGED_BY_WINS = 10
"""Dimensions from which the share of wins counts: below, both often find the same minimum."""


@dataclass(frozen=True)
class Options:
    """What is compared.

    Args:
        optimizer: A shipped learned optimizer, by name, or the folder of one.
        forms: Published forms.
        dimensions: Of the functions.
        steps: Numbers of steps.
        instances: Functions of each form and dimension.
        starts: Of the oracle; a fourth of them in 100 dimensions.
        rates: Further learning rates of the learned optimizer.
        kept: Folder for what needs no learned optimizer.
        out: Folder for the JSON object and the table.
        baselines_only: Leave out the learned optimizer.
    """

    optimizer: str = "flt-rastrigin"
    forms: tuple[Form, ...] = ("open-l2o", "lois", "standard")
    dimensions: tuple[int, ...] = (2, 10, 100)
    steps: tuple[int, ...] = (200, 1000)
    instances: int = 500
    starts: int = 64
    rates: tuple[float, ...] = ()
    kept: Path = Path("runs/rastrigin-proof")
    out: Path | None = None
    baselines_only: bool = False


@dataclass(frozen=True)
class Finding:
    """A method on all functions of one form and dimension.

    Attributes:
        value: Mean final value.
        gap: Mean distance from the oracle, with its interval.
        gap_to_best: The same from the least value known.
        setting: How it was run.
    """

    value: float
    gap: tuple[float, float, float]
    gap_to_best: tuple[float, float, float]
    setting: str


@dataclass(frozen=True)
class Duel:
    """The learned optimizer against another method.

    Attributes:
        ratio: Of mean gaps to the oracle, with its interval.
        ratio_to_best: The same of gaps to the least value known.
        wins: Share of functions on which it ends lower by more than rounding, with its interval.
        losses: Share on which it ends higher.
        p: That it is no better, by the signed-rank test.
    """

    ratio: tuple[float, float, float]
    ratio_to_best: tuple[float, float, float]
    wins: tuple[float, float, float]
    losses: float
    p: float


@dataclass(frozen=True)
class Row:
    """All about one form, dimension and number of steps.

    Attributes:
        form: Published form.
        dimension: Of the functions.
        steps: Gradient evaluations of every method.
        oracle: Mean of its values.
        best: Mean of the least values known.
        learned: The learned optimizer at its default.
        adam: Adam at its best setting.
        restarts: The best number of restarts of Adam at their best setting.
        against_adam: The first against the second.
        against_restarts: The first against the third.
        other_rates: Mean final value of the learned optimizer at further learning rates.
        met: Whether the mean gap is at most half of Adam's and, from 10 dimensions, 90 % are won with p
            below 1e-6.
    """

    form: str
    dimension: int
    steps: int
    oracle: float
    best: float
    learned: Finding
    adam: Finding
    restarts: Finding
    against_adam: Duel
    against_restarts: Duel
    other_rates: dict[str, float]
    met: bool


def remembered(options: Options, name: str, make: Callable[[], Tensor]) -> Tensor:
    """A tensor from the folder, or made and kept there."""
    file = writable_folder(options.kept) / f"{name} of {options.instances}.safetensors"
    if not file.exists():
        partial = file.with_suffix(".partial")
        save_file({"values": make().contiguous()}, partial)
        partial.replace(file)
    return load_file(file)["values"]


def minima(functions: Functions, name: str, options: Options) -> Tensor:
    """Least values by the oracle, or by construction, ``[I]``."""
    if name.startswith("standard"):
        return torch.zeros(options.instances, dtype=torch.float64)
    large = functions.start.shape[1] > LARGE
    starts = options.starts // LARGE_SHARE if large else options.starts
    return remembered(options, f"oracle {name} {starts} starts", lambda: oracle(functions, starts))


def baselines(functions: Functions, name: str, steps: int, options: Options) -> dict[int, Tensor]:
    """Final values of Adam, ``[I, settings]``, by the number of runs that share the steps."""
    found = {}
    for runs in (1, *RESTARTS):
        settings = settings_of(functions.start.shape[1], runs)
        file = f"adam {name} {steps} steps {runs} runs"
        if settings != SETTINGS:
            file += f" {len(settings)} settings"

        def best_of_runs(runs: int = runs, settings: Sequence[Setting] = settings) -> Tensor:
            return adam(functions, functions.starts[:, :runs], steps // runs, settings).amin(1)

        found[runs] = remembered(options, file, best_of_runs)
    return found


def settings_of(dimension: int, runs: int) -> tuple[Setting, ...]:
    """Those that Adam has: for restarts on large functions the middle ones, which saves half of the time."""
    return MIDDLE if dimension > LARGE and runs > 1 else SETTINGS


def interval(statistic: Callable[[Tensor], Tensor], count: int) -> tuple[float, float, float]:
    """A statistic of functions by their indices ``[..., I]``, and its interval by bootstrap."""
    generator = torch.Generator().manual_seed(0)
    drawn = statistic(torch.randint(count, (SAMPLES, count), generator=generator))
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
    return float(statistic(torch.arange(count))), low, high


def finding(values: Tensor, least: Tensor, best: Tensor, setting: str) -> Finding:
    """What a method's final values ``[I]`` come to."""

    def gap(to: Tensor) -> tuple[float, float, float]:
        return interval(lambda rows: (values - to)[rows].mean(-1), len(values))

    return Finding(float(values.mean()), gap(least), gap(best), setting)


def duel(ours: Tensor, theirs: Tensor, least: Tensor, best: Tensor) -> Duel:
    """Final values ``[I]`` against others."""

    def ratio(to: Tensor) -> tuple[float, float, float]:
        return interval(lambda rows: (ours - to)[rows].mean(-1) / (theirs - to)[rows].mean(-1), len(ours))

    won = (ours < theirs - TIE).double()
    return Duel(
        ratio(least),
        ratio(best),
        interval(lambda rows: won[rows].mean(-1), len(ours)),
        float((ours > theirs + TIE).double().mean()),
        float(wilcoxon(ours.numpy(), theirs.numpy(), alternative="less").pvalue),
    )


def rows_of(form: Form, dimension: int, options: Options, console: Console) -> list[Row]:
    """All numbers of steps for one form and dimension."""
    functions = Functions(form, dimension, options.instances, restarts=max(RESTARTS) - 1)
    name = f"{form} {dimension}"
    least = minima(functions, name, options)
    found = {steps: baselines(functions, name, steps, options) for steps in options.steps}
    console.print(f"{name}: Adam and the oracle at {time.process_time():.0f} s")
    if options.baselines_only:
        return []
    ours = {steps: learned(functions, options.optimizer, steps) for steps in options.steps}
    others = {
        steps: {f"{lr:g}": learned(functions, options.optimizer, steps, lr=lr) for lr in options.rates}
        for steps in options.steps
    }
    console.print(f"{name}: the learned optimizer at {time.process_time():.0f} s")
    seen = [values[:, None] for values in ours.values()] + [
        values for each in found.values() for values in each.values()
    ]
    best = torch.minimum(least, torch.cat(seen, 1).nan_to_num(torch.inf).amin(1))
    rows = []
    for steps, by_runs in found.items():
        settings = {
            runs: int(values.mean(0).nan_to_num(torch.inf).argmin()) for runs, values in by_runs.items()
        }
        chosen = {runs: values[:, settings[runs]] for runs, values in by_runs.items()}
        runs = min(RESTARTS, key=lambda runs: float(chosen[runs].mean()))
        against = duel(ours[steps], chosen[1], least, best)
        rows.append(
            Row(
                form,
                dimension,
                steps,
                float(least.mean()),
                float(best.mean()),
                finding(ours[steps], least, best, "default"),
                finding(chosen[1], least, best, str(SETTINGS[settings[1]])),
                finding(
                    chosen[runs], least, best, f"{runs} runs, {settings_of(dimension, runs)[settings[runs]]}"
                ),
                against,
                duel(ours[steps], chosen[runs], least, best),
                {lr: float(values.mean()) for lr, values in others[steps].items()},
                is_met(against, dimension),
            )
        )
    return rows


def is_met(against: Duel, dimension: int) -> bool:
    """Whether half of Adam's gap is left at most and, where wins count, enough are won."""
    won = against.wins[0] >= SMALLEST_SHARE and against.p < LARGEST_P
    return against.ratio[0] <= LARGEST_RATIO and (won or dimension < JUDGED_BY_WINS)


def tables(rows: list[Row]) -> list[Table]:
    """Values and gaps; duels."""
    values = Table(title="Mean final value, and in brackets the mean gap to the oracle")
    for column in ("form", "n", "steps", "oracle", "least known", "learned", "Adam", "restarts"):
        values.add_column(column, justify="left" if column == "form" else "right")
    values.add_column("Adam's setting; that of the restarts")
    duels = Table(title="The learned optimizer against Adam and against restarts of Adam")
    for column in ("form", "n", "steps"):
        duels.add_column(column, justify="left" if column == "form" else "right")
    for other in ("Adam", "restarts"):
        for column in ("gap / its gap", "to least known", "won", "p"):
            duels.add_column(f"{other}: {column}" if column[0] == "g" else column, justify="right")
    duels.add_column("met")
    for row in rows:
        key = (row.form, f"{row.dimension}", f"{row.steps:,}")
        cells = [f"{each.value:.2f} ({each.gap[0]:.2f})" for each in (row.learned, row.adam, row.restarts)]
        settings = f"{row.adam.setting}; {row.restarts.setting}"
        values.add_row(*key, f"{row.oracle:.2f}", f"{row.best:.2f}", *cells, settings)
        fought = [cell for each in (row.against_adam, row.against_restarts) for cell in _cells(each)]
        duels.add_row(*key, *fought, "yes" if row.met else "no")
    return [values, duels]


def _cells(fought: Duel) -> tuple[str, ...]:
    spans = [f"{mid:.3f} [{low:.3f}, {high:.3f}]" for mid, low, high in (fought.ratio, fought.ratio_to_best)]
    return (*spans, f"{fought.wins[0]:.1%}", f"{fought.p:.1g}")


def main() -> None:
    """Run, print the tables and one JSON object."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    console = Console(width=200)
    rows = [
        row
        for form in options.forms
        for dimension in options.dimensions
        for row in rows_of(form, dimension, options, console)
    ]
    if not rows:
        return
    summary = {
        "optimizer": options.optimizer,
        "instances": options.instances,
        "oracle_starts": options.starts,
        "met": sum(row.met for row in rows),
        "of": len(rows),
        "seconds": round(time.process_time(), 1),
    }
    with console.capture() as shown:
        for table in tables(rows):
            console.print(table)
    print(shown.get())
    described = summary | {"rows": [asdict(row) for row in rows]}
    if options.out is not None:
        folder = writable_folder(options.out)
        atomic_write_text(folder / "proof.json", json.dumps(described, indent=1) + "\n")
        atomic_write_text(folder / "proof.txt", shown.get())
    print(json.dumps(described))


if __name__ == "__main__":
    main()
