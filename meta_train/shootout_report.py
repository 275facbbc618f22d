"""The record of a shoot-out: ``results.json``, ``summary.md`` and one page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from learned_opt import Checkpoint, load_checkpoint
from meta_train.commands.display import duration
from meta_train.shootout import LABELS, MetaRun, sizes
from meta_train.shootout_scores import MemoryScore, Rules, mean_curve, memory_scores, rule_speedup
from tasks.benchmark import Results, Section, write_page
from tasks.benchmark.figures.metrics import Interval
from tasks.benchmark.report import page
from tasks.benchmark.report.palette import REFERENCE, SERIES
from tasks.benchmark.report.plots import inline_svg, legend_below, log_if_wide, new_figure
from tasks.benchmark.results import environment, finite
from tasks.files import atomic_write_text

FORMAT, VERSION = "learned-opt-shootout", 1
REFERENCE_ENTRY = "adam"
POINTS = 200
HEADER = ("memory", "speed-up", "floats", "meta-parameters", "validation score")

LEAD = (
    "One rule with different memories of the gradient history, of the same size and under the same head, "
    "each meta-trained from Adam with the same preset, budget and seeds."
)
METHOD = (
    "Speed-up: steps that the best of Adam's settings needs to a common target, divided by those that the "
    "best of the rule's needs; geometric mean over meta-seeds, interquartile mean over tasks. Intervals hold "
    "95 % of bootstrap resamples of meta-seeds and, within each task, of seeds. Everyone has the same "
    "learning rates and schedules to choose from."
)
CURVES = "Training loss of each rule's best setting: mean over meta-seeds and seeds, with its 95 % interval."


@dataclass(frozen=True)
class Shootout:
    """All that a shoot-out found.

    Attributes:
        preset: Its name.
        runs: The meta-training runs, finished.
        results: Of the benchmark, where each run is an entry under its name.
        scores: One a memory.
    """

    preset: str
    runs: Sequence[MetaRun]
    results: Results
    scores: Sequence[MemoryScore]

    @classmethod
    def of(cls, preset: str, runs: Sequence[MetaRun], results: Results) -> "Shootout":
        """Score the memories of these runs."""
        return cls(preset, runs, results, memory_scores(results, rules_of(runs), REFERENCE_ENTRY))

    def ranked(self) -> list[MemoryScore]:
        """The scores, the fastest first and those without a speed-up last."""
        return sorted(self.scores, key=lambda score: -score.speedup.value if score.speedup else 0.0)


def rules_of(runs: Sequence[MetaRun]) -> Rules:
    """Names of the runs by memory, in order."""
    memories = dict.fromkeys(run.memory for run in runs)
    return {memory: [run.name for run in runs if run.memory == memory] for memory in memories}


def write_shootout(shootout: Shootout, out: Path) -> None:
    """Write the record of a shoot-out.

    Args:
        shootout: What was found.
        out: A folder that exists.

    Raises:
        OSError: If a file cannot be written; one that was there stays whole.
    """
    checkpoints = {run.name: load_checkpoint(run.folder) for run in shootout.runs}
    document = record(shootout, checkpoints)
    atomic_write_text(out / "results.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    rows = table(shootout, document)
    lines = ["| " + " | ".join(header(shootout)) + " |", "|---" * len(header(shootout)) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    atomic_write_text(out / "summary.md", "\n".join([*lines, "", *_notes(document), ""]))
    write_page(
        out / "index.html",
        "Memory shoot-out",
        [
            Section("", [page.table(header(shootout), rows), page.paragraph(METHOD)]),
            Section("Curves", [page.gallery(_plots(shootout)), page.paragraph(CURVES)]),
            Section("Every rule", [page.table(*_rules_table(shootout, document))]),
            Section("Settings", [page.paragraph(note) for note in _notes(document)]),
        ],
        lead=LEAD,
    )


def record(shootout: Shootout, checkpoints: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """The content of ``results.json``."""
    results, settings = shootout.results, shootout.results.settings
    told = checkpoints[shootout.runs[0].name].facts.get("meta_training")
    training = told if isinstance(told, dict) else {}
    common = {name: value for name, value in training.items() if name not in ("rule", "seed")}
    document = {
        "format": FORMAT,
        "version": VERSION,
        "preset": shootout.preset,
        "reference": REFERENCE_ENTRY,
        "meta_training": common,
        "benchmark": {
            "tasks": {task.name: task.steps for task in results.tasks.values()},
            "seeds": settings.seeds,
            "schedules": settings.schedules,
            "learning_rates": settings.sweeps[REFERENCE_ENTRY],
        },
        "environment": environment(),
        "memories": [_memory_record(score) for score in shootout.scores],
        "adam": {task: _final(results, task, REFERENCE_ENTRY) for task in results.tasks},
        "runs": [_run_record(results, run, checkpoints[run.name]) for run in shootout.runs],
    }
    plain: dict[str, Any] = finite(document)
    return plain


def _memory_record(score: MemoryScore) -> dict[str, Any]:
    floats, meta_parameters = sizes(score.memory)
    own = {"floats_per_parameter": floats, "meta_parameters": meta_parameters}
    return {**asdict(score), **own}


def _run_record(results: Results, run: MetaRun, checkpoint: Checkpoint) -> dict[str, Any]:
    kept = ("validation_score", "kept_outer_step", "outer_steps", "inner_steps", "seconds")
    tasks = {
        task: {
            "speedup": rule_speedup(results, task, run.name, REFERENCE_ENTRY),
            **_final(results, task, run.name),
        }
        for task in results.tasks
    }
    facts = {name: checkpoint.facts.get(name) for name in kept}
    return {"memory": run.memory, "meta_seed": run.seed, **facts, "tasks": tasks}


def _final(results: Results, task: str, name: str) -> dict[str, Any]:
    """The best setting of an entry on a task, and its figures."""
    summary = results.summary(task, name)
    if summary is None:
        return {}
    return {
        "final_loss": asdict(summary.final_loss) if summary.final_loss else None,
        "schedule": summary.schedule,
        "learning_rate": summary.learning_rate,
        "diverged": summary.diverged,
    }


def header(shootout: Shootout) -> list[str]:
    """Titles of the columns of `table`."""
    tasks = [title for task in shootout.results.tasks for title in (f"{task}: speed-up", "final loss")]
    return [*HEADER, *tasks, "meta-training"]


def table(shootout: Shootout, document: Mapping[str, Any]) -> list[list[str]]:
    """One row a memory, best first, and Adam's."""
    rows = []
    for score in shootout.ranked():
        floats, meta_parameters = sizes(score.memory)
        runs = [run for run in document["runs"] if run["memory"] == score.memory]
        seconds = sum(run["seconds"] or 0.0 for run in runs) / len(runs)
        validation = [run["validation_score"] for run in runs if run["validation_score"] is not None]
        tasks = [
            text
            for task in shootout.results.tasks
            for text in (figure_text(score.by_task[task], "x"), figure_text(score.final_loss[task]))
        ]
        mean = f"{sum(validation) / len(validation):+.3f}" if validation else "-"
        rows.append(
            [
                LABELS[score.memory],
                figure_text(score.speedup, "x"),
                str(floats),
                str(meta_parameters),
                mean,
                *tasks,
                f"{len(runs)} x {duration(seconds)}",
            ]
        )
    finals = [(document["adam"][task] or {}).get("final_loss") for task in shootout.results.tasks]
    adam = [text for final in finals for text in ("1", figure_text(Interval(**final)) if final else "-")]
    return [*rows, ["Adam", "1", "2", "0", "0", *adam, "none"]]


def figure_text(interval: Interval | None, unit: str = "") -> str:
    """A figure with its interval, to three digits."""
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3g}{unit}"
    return f"{interval.value:.3g}{unit} ({interval.low:.3g} to {interval.high:.3g})"


def _rules_table(shootout: Shootout, document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    tasks = list(shootout.results.tasks)
    titles = ["memory", "meta-seed", "validation score", "kept step", *tasks]
    rows = [
        [
            LABELS[run["memory"]],
            str(run["meta_seed"]),
            "-" if run["validation_score"] is None else f"{run['validation_score']:+.3f}",
            str(run["kept_outer_step"]),
            *(_setting(run["tasks"][task]) for task in tasks),
        ]
        for run in sorted(document["runs"], key=lambda run: list(LABELS).index(run["memory"]))
    ]
    return titles, rows


def _setting(found: Mapping[str, Any]) -> str:
    if not found.get("learning_rate"):
        return "nothing finished"
    factor = "-" if found["speedup"] is None else f"{found['speedup']:.3g}x"
    return f"{factor} at {found['learning_rate']:.3g}, {found['schedule']}"


def _plots(shootout: Shootout) -> list[tuple[str, str]]:
    return [(_plot(shootout, task.name), task.description) for task in shootout.results.tasks.values()]


def _plot(shootout: Shootout, task: str) -> str:
    figure, axes = new_figure(task)
    lines = {"Adam": (REFERENCE, [REFERENCE_ENTRY])}
    named = list(LABELS)
    for memory, names in rules_of(shootout.runs).items():
        lines[LABELS[memory]] = (SERIES[named.index(memory) % len(SERIES)], list(names))
    for label, (color, names) in lines.items():
        curve = mean_curve(shootout.results, task, names)
        if curve is None:
            continue
        every = max(1, len(curve.mean) // POINTS)
        steps = range(1, len(curve.mean) + 1, every)
        axes.plot(steps, curve.mean[::every], color=color, label=label)
        axes.fill_between(
            steps, curve.low[::every], curve.high[::every], color=color, alpha=0.14, linewidth=0
        )
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    log_if_wide(axes)
    legend_below(axes)
    return inline_svg(figure)


def _notes(document: Mapping[str, Any]) -> list[str]:
    training, judged = document["meta_training"], document["benchmark"]
    runs = document["runs"]
    seconds = sum(run["seconds"] or 0.0 for run in runs)
    meta_seeds = len({run["meta_seed"] for run in runs})
    rates = judged["learning_rates"]
    steps = ", ".join(f"{task} ({count:,} steps)" for task, count in judged["tasks"].items())
    return [
        f"Meta-training: preset {document['preset']}, {training.get('outer_steps', 0):,} outer steps on "
        f"{', '.join(training.get('families', ()))}; "
        f"{meta_seeds} meta-seeds, {len(runs)} runs, {duration(seconds)} in all.",
        f"Benchmark: {steps}; {len(judged['seeds'])} seeds, {len(rates)} learning rates from {rates[0]:g} to "
        f"{rates[-1]:g}, schedules {', '.join(judged['schedules'])}.",
    ]
