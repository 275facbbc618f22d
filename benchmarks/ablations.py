"""What the parts of `flt-base`'s rule are worth: each left out or put back, and meta-trained again.

Every variant is meta-trained from Adam with the same recipe, a short one of the preset `base`, once for each
of several meta-seeds; all are then benchmarked beside Adam on held-out tasks that judge nothing. Prints
each one's speed-up over tuned Adam, with an interval over meta-seeds and seeds. The last line is one JSON
object.

    python benchmarks/ablations.py --out runs/ablations
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from learned_opt import RuleConfig, load_checkpoint
from learned_opt.memory import FLTConfig
from meta_train.config import MetaTrainConfig
from meta_train.entries import learned_entry
from meta_train.loop import meta_train
from meta_train.presets import PRESETS
from meta_train.shootout_report import figure_text
from meta_train.shootout_scores import MemoryScore, memory_scores, rule_speedup
from meta_train.state import has_state
from tasks.benchmark import Results, get_entry, run_benchmark
from tasks.files import atomic_write_text, writable_folder

WHOLE = PRESETS["base"].rule
VARIANTS: dict[str, RuleConfig] = {
    "whole": WHOLE,
    "no-waves": replace(WHOLE, memory=FLTConfig(wave_betas=(), wave_frequencies=())),
    "no-shapes": replace(WHOLE, shapes=False),
    "factored": replace(WHOLE, factored=True),
    "wide-head": replace(WHOLE, hidden=16, directions=4),
    "not-orthogonal": replace(WHOLE, orthogonal=False),
    "five-iterations": replace(WHOLE, iterations=5),
    "not-tempered": replace(WHOLE, tempered=False),
    "not-spectral": replace(WHOLE, spectral=False),
    "learned-vectors": replace(WHOLE, vectors="learned"),
}
"""Without the Fourier part (four floats a parameter less); not told of shapes; told of row and column moments
too; twice the head; meta-trained and judged without Newton-Schulz iterations, or with Muon's five; directions
not weighed before them, and their sizes learned; vectors by what is learned, as matrices."""
FAMILIES = ("digits-mlp-tanh", "image_conv@7", "vit@21", "autoencoder@15", "rastrigin-open-l2o-16")


@dataclass(frozen=True)
class Options:
    """What the parts of the rule are worth.

    Args:
        variants: Keys of `VARIANTS`.
        meta_seeds: Meta-training runs of each.
        first: The first meta-seed.
        outer_steps: Of every run.
        tasks: Held-out tasks to judge on.
        seeds: Of the benchmark.
        steps: Of its runs.
        workers: Processes of the benchmark; 0 stops after meta-training.
        out: Folder; what it holds is not done again.
    """

    variants: tuple[str, ...] = tuple(VARIANTS)
    meta_seeds: int = 3
    first: int = 0
    outer_steps: int = 400
    tasks: tuple[str, ...] = ("digits-conv", "digits-mlp-norm", "digits-autoencoder", "rastrigin-rotated-10")
    seeds: int = 3
    steps: int = 200
    workers: int = 1
    out: Path = Path("runs/ablations")


def recipe(variant: str, meta_seed: int, outer_steps: int) -> MetaTrainConfig:
    """That of the preset `base`, cut short: fewer families, shorter episodes, the last weights kept."""
    return replace(
        PRESETS["base"],
        rule=VARIANTS[variant],
        families=FAMILIES,
        family_weights=(),
        outer_steps=outer_steps,
        horizon=(60, 400),
        learning_rate=1e-2,
        validation=("rosenbrock-2",),
        validation_every=outer_steps,
        validation_steps=10,
        seed=meta_seed,
    )


def train(options: Options) -> dict[str, list[str]]:
    """Meta-train what is missing, seeds outermost; the names of the runs by variant."""
    names: dict[str, list[str]] = {variant: [] for variant in options.variants}
    for meta_seed in range(options.first, options.first + options.meta_seeds):
        for variant in options.variants:
            name = f"{variant}-{meta_seed}"
            names[variant].append(name)
            folder = writable_folder(options.out / name)
            config = recipe(variant, meta_seed, options.outer_steps)
            meta_train(config, folder, resume=has_state(folder))
            torch.compiler.reset()
            print(f"{name}: meta-trained", flush=True)
    return names


def judge(names: dict[str, list[str]], options: Options) -> Results:
    """Benchmark all rules and Adam on the held-out tasks."""
    rules = [name for run in names.values() for name in run]
    return run_benchmark(
        options.tasks,
        [get_entry("adam"), *(learned_entry(name, load_checkpoint(options.out / name)) for name in rules)],
        seeds=options.seeds,
        steps=options.steps,
        schedules=("constant", "warmup-cosine"),
        workers=options.workers,
        time_limit=3600.0,
        out=options.out / "benchmark",
    )


def told(score: MemoryScore) -> dict[str, object]:
    """A variant's figures in JSON's types."""
    return {
        "variant": score.memory,
        "speedup": score.speedup and asdict(score.speedup),
        "by_task": {task: each and asdict(each) for task, each in score.by_task.items()},
    }


def main(options: Options) -> None:
    """Meta-train, judge, print and write."""
    names = train(options)
    if not options.workers:
        return
    results = judge(names, options)
    scores = memory_scores(results, names, "adam")
    table = Table("variant", "speed-up over Adam", *options.tasks)
    for score in scores:
        table.add_row(score.memory, *map(figure_text, (score.speedup, *score.by_task.values())))
    Console(width=160).print(table)
    document = json.dumps(
        {
            "recipe": recipe("whole", options.first, options.outer_steps).as_json(),
            "meta_seeds": options.meta_seeds,
            "seeds": options.seeds,
            "steps": options.steps,
            "scores": [told(score) for score in scores],
            "rules": {
                name: {task: rule_speedup(results, task, name, "adam") for task in options.tasks}
                for run in names.values()
                for name in run
            },
        }
    )
    atomic_write_text(options.out / "ablations.json", document + "\n")
    print(document)


if __name__ == "__main__":
    main(tyro.cli(Options))
