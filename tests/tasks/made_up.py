"""Made-up results of a benchmark, for what reports them."""

import numpy as np
import torch

from tasks import get_task
from tasks.benchmark import Entry, Results
from tasks.benchmark.figures.summary import summarise
from tasks.benchmark.running.cell import Cell, CellResult
from tasks.benchmark.running.timing import Timing
from tasks.benchmark.settings import Settings, TaskInfo

RATES = (1e-3, 1e-2, 1e-1)
STEPS = 60
NAMES = {"adam": "Adam", "adamw": "AdamW", "ours": "Ours & <co>", "lion": "Lion", "broken": "Broken"}
SPEED = {"adam": 1.0, "adamw": 0.8, "ours": 2.0, "lion": 1.3, "broken": 1.0}


def build(params, *, lr):
    """No optimizer."""
    raise NotImplementedError


def made_up_results(tasks=("rastrigin-2", "quadratic", "digits-mlp-32"), seeds=3):
    """Five optimizers: a learned one, the fastest; one that always fails; the highest rate diverges."""
    entries = tuple(
        Entry(
            name,
            build,
            3e-3,
            RATES,
            label=label,
            kind="learned" if name == "ours" else "baseline",
            identity=name,
            takes=("loss", "steps") if name == "lion" else (),
        )
        for name, label in NAMES.items()
    )
    settings = Settings(
        entries=entries,
        sweeps={entry.name: entry.learning_rates for entry in entries},
        with_defaults=True,
        schedules=("constant", "warmup-cosine"),
        seeds=tuple(range(seeds)),
        references=("adam", "adamw"),
        device="cpu",
        suite="made-up",
    )
    infos = {}
    for name in tasks:
        task = get_task(name)
        infos[name] = TaskInfo(name, task.description, task.metric, STEPS, task.higher_is_better)
    cells = tuple(
        _run(Cell(task, entry.name, schedule, rate, seed, STEPS))
        for seed in settings.seeds
        for task in tasks
        for entry in entries
        for rate in settings.rates(entry)
        for schedule in settings.schedules
    )
    timings = {
        (task, name): Timing(task, name, "", 1e-4 * SPEED[name] ** 3, 1e-3, 10, 2.0)
        for task in tasks
        for name in NAMES
        if name != "broken"
    }
    return Results(settings, infos, cells, timings, *summarise(settings, infos, cells, timings))


def _run(cell):
    if cell.optimizer == "broken":
        return CellResult(cell, "failed", error="ArithmeticError: no <luck>")
    task = get_task(cell.task, seed=cell.seed)
    generator = torch.Generator().manual_seed(cell.seed)
    start = task.init(generator)
    first = float(task.loss(start, task.batch(generator)))
    noise = np.random.default_rng(cell.seed)
    slow = 1 + abs(np.log10(cell.learning_rate) + 2) + (cell.schedule == "constant")
    progress = 1 - np.exp(-8 * SPEED[cell.optimizer] * np.arange(STEPS) / STEPS / slow)
    curve = first - abs(first) * progress + 0.01 * abs(first) * noise.random(STEPS) * progress
    path = np.zeros((0, 2), np.float32)
    if cell.task == "rastrigin-2":
        steps = 0.1 * noise.standard_normal((STEPS, 2)) * SPEED[cell.optimizer]
        path = (start["x"].numpy() + np.concatenate([np.zeros((1, 2)), steps.cumsum(0)])).astype(np.float32)
    if cell.learning_rate == max(RATES):
        curve = curve[:10] * np.exp(np.arange(10))
        return CellResult(cell, "diverged", curve=curve.astype(np.float32), path=path[:11], seconds=0.01)
    return CellResult(
        cell,
        "finished",
        curve=curve.astype(np.float32),
        final_loss=float(curve[-6:].mean()),
        mean_loss=float(curve.mean()),
        validation={"loss": float(curve[-1]), "accuracy": float(progress[-1])},
        path=path,
        seconds=0.06,
    )
