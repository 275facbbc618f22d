"""Memories of one size against each other where minutes of meta-training go far: on Rastrigin functions.

The contenders of ``learned-opt shootout``, each meta-trained with several meta-seeds by a short form of the
recipe of `flt-rastrigin` (a rule that is told how many steps are left, evolution strategies over whole
episodes), then judged as `benchmarks/rastrigin.py` judges that: on fresh functions of all published forms, in
dimensions that meta-training did not see, by the mean gap to a search from many starts as a part of the gap
of the best of 84 tuned Adams. Intervals resample meta-seeds and functions. Prints tables; the last line is
one JSON object.

    python benchmarks/rastrigin_memories.py --out runs/rastrigin-memories
"""

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import product, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import vmap

sys.path[0] = str(Path(__file__).resolve().parents[1])  # where `benchmarks` is found

from benchmarks.rastrigin import Options as Proof  # noqa: E402
from benchmarks.rastrigin import minima, remembered  # noqa: E402
from benchmarks.rastrigin_methods import Functions, adam  # noqa: E402
from learned_opt import UpdateRule, functional, load_checkpoint  # noqa: E402
from learned_opt.memory import (  # noqa: E402
    FLTConfig,
    LSTMConfig,
    MemoryConfig,
    MomentsConfig,
    PerformerConfig,
    S4DConfig,
)
from learned_opt.names import unknown_name  # noqa: E402
from meta_train.config import MetaTrainConfig  # noqa: E402
from meta_train.loop import meta_train  # noqa: E402
from meta_train.presets import PRESETS  # noqa: E402
from meta_train.shootout import CONTENDERS, LABELS, contender  # noqa: E402
from meta_train.shootout_report import figure_text  # noqa: E402
from meta_train.state import has_state  # noqa: E402
from tasks.benchmark.figures.metrics import Interval, interquartile_mean  # noqa: E402
from tasks.benchmark.figures.resampling import resampled  # noqa: E402
from tasks.files import atomic_write_text, writable_folder  # noqa: E402
from tasks.rastrigin import Form  # noqa: E402

SMALLEST_RATIO = 1e-3
"""Of gaps: below it both are rounding."""

QUICK_FLT = FLTConfig(betas=(0.9, 0.5, 0.99), wave_betas=(0.64, 0.88), wave_frequencies=(0.45, 0.25))
QUICK: dict[str, MemoryConfig] = {
    "flt": QUICK_FLT,
    "flt-spectrum": replace(QUICK_FLT, reading="spectrum"),
    "performer": PerformerConfig(betas=(0.9, 0.5, 0.99)),
    "s4d": S4DConfig(step_sizes=(1.4, 0.9, 0.25)),
    "lstm": LSTMConfig(unit_betas=(0.3, 0.6, 0.9)),
    "moments": MomentsConfig(betas=(0.9, 0.5, 0.99), mixed_betas=(0.1, 0.3, 0.7, 0.97)),
}
"""Contenders of the same size whose time scales start at a few steps, and waves near alternation, as what
`flt-rastrigin` has learned; S4D's modes do by their step sizes: half-lives of 1, 1.5 and 5.5 steps, the last
two with waves of .45 and .25 cycles a step."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """What is compared.

    Args:
        memories: Of `meta_train.shootout.CONTENDERS`, or of `QUICK` if they start quick.
        compared: The one whose gap is told as a multiple of each one's.
        quick: Let time scales start where long meta-training takes them (`QUICK`).
        meta_seeds: Of the meta-training runs of each.
        outer_steps: Of every run.
        pairs: Antithetic pairs of perturbed rules for each family.
        steps: Of every episode, in meta-training and after.
        forms: Published forms to judge on.
        dimensions: Of the functions to judge on.
        instances: Functions of each form and dimension.
        starts: Of the search; a fourth of them in 100 dimensions.
        judge: False to stop after meta-training.
        workers: Processes that judge, each on a form and dimension at a time.
        out: Folder; what it holds is not done again.
    """

    memories: tuple[str, ...] = tuple(CONTENDERS)
    compared: str = "flt"
    quick: bool = False
    meta_seeds: tuple[int, ...] = (0, 1, 2)
    outer_steps: int = 100
    pairs: int = 32
    steps: int = 200
    forms: tuple[Form, ...] = ("open-l2o", "lois", "standard")
    dimensions: tuple[int, ...] = (2, 10, 100)
    instances: int = 200
    starts: int = 64
    judge: bool = True
    workers: int = 2
    out: Path = Path("runs/rastrigin-memories")


class Functionwise(NamedTuple):
    """Gaps to the search on one form and dimension.

    Attributes:
        rules: Of every meta-seed, ``[J, I]``, by memory.
        adam: Of the best Adam, ``[I]``.
    """

    rules: dict[str, Array]
    adam: Array


def recipe(memory: str, meta_seed: int, options: Options) -> MetaTrainConfig:
    """That of the preset `rastrigin`, cut short: fewer steps, fewer pairs, episodes of one length."""
    short = replace(
        PRESETS["rastrigin"],
        outer_steps=options.outer_steps,
        pairs=options.pairs,
        horizon=(options.steps, options.steps),
        validation_every=options.outer_steps,
        validation_steps=options.steps,
        keep="last",
    )
    if not options.quick:
        return contender(short, memory, meta_seed)
    return replace(short, rule=replace(short.rule, memory=QUICK[memory]), seed=meta_seed)


def train(options: Options) -> dict[str, list[Path]]:
    """Meta-train what is missing, seeds outermost; folders by memory."""
    folders: dict[str, list[Path]] = {memory: [] for memory in options.memories}
    for meta_seed in options.meta_seeds:
        for memory in options.memories:
            folder = writable_folder(options.out / f"{memory}-{meta_seed}")
            folders[memory].append(folder)
            meta_train(recipe(memory, meta_seed, options), folder, resume=has_state(folder))
            torch.compiler.reset()
            print(f"{folder.name}: meta-trained", file=sys.stderr, flush=True)
    return folders


@torch.no_grad()
def end(functions: Functions, folder: Path, steps: int) -> Tensor:
    """Final values ``[I]`` of a rule at its default learning rate, all functions at once."""
    checkpoint = load_checkpoint(folder)
    rule, lr = UpdateRule(checkpoint.config), checkpoint.config.default_lr

    def updated(state: dict[str, Tensor], gradient: Tensor, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        after, state = functional.update(
            rule, checkpoint.meta, state, {"x": gradient}, {"x": x}, lr=lr, total_steps=steps
        )
        return state, after["x"]

    x = functions.start.clone()
    blank = functional.init_state(rule, {"x": x[0]})
    state = {name: tensor.expand(len(x), *tensor.shape).clone() for name, tensor in blank.items()}
    for _ in range(steps):
        state, x = vmap(updated)(state, functions.gradient(x[..., None])[..., 0], x)
    return functions.value(x[..., None])[:, 0]


def gaps(form: Form, dimension: int, folders: Mapping[str, Sequence[Path]], options: Options) -> Functionwise:
    """Of all rules and the best Adam, judged on these very functions, which favours Adam."""
    functions = Functions(form, dimension, options.instances)
    proof = Proof(instances=options.instances, starts=options.starts, kept=options.out / "kept")
    least = minima(functions, f"{form} {dimension}", proof)
    adams = remembered(
        proof,
        f"adam {form} {dimension} {options.steps} steps 1 runs",
        lambda: adam(functions, functions.starts, options.steps)[:, 0],
    ).nan_to_num(torch.inf)
    best = adams[:, adams.mean(0).argmin()]
    rules = {
        memory: np.stack([(end(functions, folder, options.steps) - least).numpy() for folder in each])
        for memory, each in folders.items()
    }
    return Functionwise(rules, (best - least).numpy())


def ratios(rows: Sequence[Functionwise], options: Options) -> dict[str, Array]:
    """Of mean gaps to Adam's, geometric means over meta-seeds: ``[rows, B]`` by memory, all first.

    The resampled meta-seeds are the same for all memories and rows, the functions for all memories.
    """
    generator = np.random.default_rng(0)
    seeds = resampled(len(options.meta_seeds), generator)
    found: dict[str, list[Array]] = {memory: [] for memory in options.memories}
    for row in rows:
        functions = resampled(options.instances, generator)
        theirs = row.adam[functions].mean(-1)
        for memory, ours in row.rules.items():
            ratio = ours[:, functions].mean(-1) / theirs
            logs = np.log(np.maximum(ratio, SMALLEST_RATIO))
            found[memory].append(np.exp(np.take_along_axis(logs.T, seeds, 1).mean(1)))
    return {memory: np.stack(each) for memory, each in found.items()}


def interval(values: Array) -> Interval:
    """The first value, and where 95 % of the others are."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Interval(float(values[0]), float(low), float(high))


def main(options: Options) -> None:
    """Meta-train, judge, print and write."""
    known = list(QUICK if options.quick else CONTENDERS)
    for memory in options.memories:
        if memory not in known:
            raise SystemExit(unknown_name("memory", memory, known))
    torch.set_num_threads(1)
    folders = train(options)
    if not options.judge:
        return
    functions = list(product(options.forms, options.dimensions))
    names = [f"{form} {n}" for form, n in functions]
    with ProcessPoolExecutor(
        options.workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        rows = list(pool.map(gaps, *zip(*functions, strict=True), repeat(folders), repeat(options)))
    by_row = ratios(rows, options)
    together = {memory: interquartile_mean(values) for memory, values in by_row.items()}
    against_each = f"{options.compared} over it"
    table = Table("memory", "in all", against_each, *names, title="Gap as a part of tuned Adam's")
    document: dict[str, object] = {
        "recipe": recipe(options.memories[0], options.meta_seeds[0], options).as_json(),
        "meta_seeds": options.meta_seeds,
        "instances": options.instances,
        "compared": options.compared,
    }
    for memory in sorted(together, key=lambda memory: float(together[memory][0])):
        ours = together.get(options.compared)
        against = None if ours is None else interval(ours / together[memory])
        each = {name: interval(values) for name, values in zip(names, by_row[memory], strict=True)}
        every = interval(together[memory])
        table.add_row(
            LABELS.get(memory, memory),
            figure_text(every),
            figure_text(against),
            *(f"{one.value:.3f}" for one in each.values()),
        )
        document[memory] = {
            "ratio": asdict(every),
            "compared_over_it": against and asdict(against),
            "by_row": {name: asdict(one) for name, one in each.items()},
            "by_rule": [
                {
                    name: float(row.rules[memory][j].mean() / row.adam.mean())
                    for name, row in zip(names, rows, strict=True)
                }
                for j in range(len(options.meta_seeds))
            ],
        }
    Console(width=200).print(table)
    told = json.dumps(document)
    atomic_write_text(options.out / "memories.json", told + "\n")
    print(told)


if __name__ == "__main__":
    main(tyro.cli(Options))
