"""What a benchmark leaves behind: a terminal table, ``results.json``, plots, and one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tasks.benchmark import page
from tasks.benchmark.entry import Entry
from tasks.benchmark.metrics import Interval
from tasks.benchmark.page import Section, write_page
from tasks.benchmark.plots import curve_plot, inline_svg, png, sensitivity_plot
from tasks.benchmark.results import Results, environment
from tasks.benchmark.settings import SELECTION, TaskInfo
from tasks.benchmark.summary import Headline, Summary
from tasks.files import atomic_write_bytes, atomic_write_text

HEADER = (
    "optimizer",
    "setting",
    "final loss",
    "validation",
    "speed-up",
    "matched at",
    "matches at",
    "good lr",
    "diverged",
    "ms a step",
    "state",
)
TERMINAL_HEADER = {
    "optimizer": "optimizer",
    "setting": "setting",
    "final loss": "loss",
    "validation": "validation",
    "speed-up": "speed-up",
    "diverged": "div.",
}


def write_report(results: Results, folder: Path) -> None:
    """Write ``results.json``, ``index.html`` and the plots.

    Args:
        results: What to report.
        folder: Where; it exists.

    Raises:
        OSError: If a file cannot be written; previous files stay whole.
    """
    atomic_write_text(folder / "results.json", results.to_json())
    curves: list[tuple[str, str]] = []
    rates: list[tuple[str, str]] = []
    for task in results.tasks.values():
        for kind, plot, found in (("curves", curve_plot, curves), ("lr", sensitivity_plot, rates)):
            figure = plot(results, task.name)
            atomic_write_bytes(folder / f"{kind}-{task.name}.png", png(figure))
            found.append((inline_svg(figure), f"{task.description.rstrip('.')}; {task.steps:,} steps."))
    sections = [
        Section("", [page.tiles(_tiles(results))]),
        Section("Training curves", [page.paragraph(_CURVES), page.gallery(curves)]),
        Section("Learning-rate sensitivity", [page.paragraph(_SENSITIVITY), page.gallery(rates)]),
        *(_table_section(results, task) for task in results.tasks.values()),
        Section("Settings", _settings_blocks(results)),
    ]
    write_page(folder / "index.html", headline_text(results), sections, lead=lead_text(results))


def terminal_table(results: Results) -> Table:
    """The leading figures as a table for ``rich.print`` that fits 80 columns."""
    table = Table(
        title=headline_text(results), title_style="bold", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )
    for title, short in TERMINAL_HEADER.items():
        left = title in ("optimizer", "setting")
        table.add_column(short, justify="left" if left else "right", no_wrap=title != "optimizer")
    for task in results.tasks.values():
        table.add_row(Text(task.name, style="bold"))
        for summary in _of_task(results, task):
            cells = dict(zip(HEADER, row(results, task, summary), strict=True))
            cells["final loss"] = f"{summary.final_loss.value:.3g}" if summary.final_loss else "–"
            cells["validation"] = cells["validation"].split(" ")[-1]
            for title in ("setting", "speed-up", "diverged"):
                cells[title] = cells[title].replace(" ", "\n")
            table.add_row(*(Text(cells[title]) for title in TERMINAL_HEADER))
        table.add_section()
    return table


def headline_text(results: Results) -> str:
    """One sentence: which optimizer needs how many times the steps of the other."""
    headline = results.headline
    if headline is None:
        return "Optimizer benchmark"
    ours, theirs = results.settings.entry(headline.optimizer).label, results.settings.reference_label
    figure = headline.speedup
    if figure is None:
        return f"{ours} against {theirs}: no speed-up, since some runs did not finish or did not progress"
    if figure.low is not None and figure.high is not None and figure.low <= 1 <= figure.high:
        return f"{ours} and the best {theirs} cannot be told apart: {interval_text(figure, '{:.2f}', '×')}"
    if figure.value >= 1:
        return f"The best {theirs} needs {figure.value:.2f}× the steps of {ours}"
    return f"{ours} needs {1 / figure.value:.2f}× the steps of the best {theirs}"


def lead_text(results: Results) -> str:
    """How the headline was found, in two sentences."""
    settings = results.settings
    names = ", ".join(results.tasks)
    text = (
        f"{_count(settings.entries, 'optimizer')} on {names}: {len(results.cells):,} runs, "
        f"{_count(settings.seeds, 'seed')}, "
        f"{' and '.join(settings.schedules)} learning rates. "
        "Equal seeds start from the same weights and see the same batches."
    )
    failed = len(results.failures())
    return text + (f" {failed} runs failed; their messages are in the settings below." if failed else "")


def row(results: Results, task: TaskInfo, summary: Summary) -> list[str]:
    """The cells of a table's line, in the order of `HEADER`."""
    label = results.settings.entry(summary.optimizer).label
    name = label if summary.choice == "tuned" else f"{label}, default"
    diverged = f"{summary.failed:.0%} failed" if summary.failed else f"{summary.diverged:.0%}"
    if summary.final_loss is None or summary.validation is None:
        return [name, "none finished", *["–"] * 6, diverged, "–", "–"]
    race = ["–"] * 3
    if results.settings.races(summary.optimizer):
        speedup = interval_text(summary.speedup, "{:.2f}", "×") if summary.speedup else "–"
        race = [speedup, _step(summary.matched_at, task), _step(summary.matches_at, task)]
    return [
        name,
        f"{summary.learning_rate:.2g} {summary.schedule}",
        interval_text(summary.final_loss, "{:.3g}"),
        _metric(task, summary.validation),
        *race,
        _good_rates(summary),
        diverged,
        "–" if summary.ms_per_step is None else f"{summary.ms_per_step:.3f}",
        "–" if summary.state_floats is None else f"{summary.state_floats:.2f}",
    ]


def interval_text(interval: Interval, form: str, unit: str = "") -> str:
    """A figure with its interval in brackets."""
    value = form.format(interval.value) + unit
    if interval.low is None or interval.high is None:
        return value
    return f"{value} [{form.format(interval.low)}–{form.format(interval.high)}]"


def _tiles(results: Results) -> list[tuple[str, str]]:
    """The headline's figures: over all tasks, then by task."""
    headline = results.headline
    if headline is None:
        return [(f"{len(results.cells):,}", "runs")]
    figures = [
        _headline_tile(results, line) for line in results.headlines if line.optimizer == headline.optimizer
    ]
    for task in results.tasks:
        summary = results.summary(task, headline.optimizer)
        if summary and summary.speedup and len(results.tasks) > 1:
            figures.append(
                (f"{summary.speedup.value:.2f}×", f"speed-up on {task}, {_range(summary.speedup)}")
            )
    return figures


def _headline_tile(results: Results, headline: Headline) -> tuple[str, str]:
    label = results.settings.entry(headline.optimizer).label
    sweep = results.settings.sweeps[headline.optimizer]
    kind = "tuned over its sweep" if len(sweep) > 1 else f"at learning rate {sweep[0]:g}"
    if headline.choice == "default":
        kind = "at its default learning rate"
    if headline.speedup is None:
        return "–", f"speed-up of {label} {kind}"
    return f"{headline.speedup.value:.2f}×", f"speed-up of {label} {kind}, {_range(headline.speedup)}"


def _table_section(results: Results, task: TaskInfo) -> Section:
    summaries = _of_task(results, task)
    best = [k for k, one in enumerate(summaries) if one.final_loss]
    strong = sorted(best, key=lambda k: summaries[k].final_loss.value)[:1]  # type: ignore[union-attr]
    rows = [row(results, task, summary) for summary in summaries]
    return Section(f"Figures: {task.name}", [page.table(HEADER, rows, strong=strong)])


def _settings_blocks(results: Results) -> list[str]:
    settings, machine = results.settings, environment()
    sweeps = [
        (
            entry.label,
            f"{entry.default_lr:g}",
            ", ".join(f"{rate:.3g}" for rate in settings.sweeps[entry.name]),
            entry.fingerprint,
            _taken(entry),
        )
        for entry in settings.entries
    ]
    hours = sum(result.seconds for result in results.cells) / 3600
    facts = [
        ("seeds", ", ".join(map(str, settings.seeds))),
        ("schedules", ", ".join(settings.schedules)),
        ("a setting is chosen by", f"{SELECTION[settings.select]} among those that finished on every seed"),
        ("intervals", "95 %, percentile bootstrap over seeds"),
        ("compute", f"{hours:.2f} hours of one thread"),
        ("processor", f"{machine['cpu']}, {machine['cores']} cores"),
        ("device", f"{settings.device}{', ' + machine['gpu'] if machine['gpu'] else ''}"),
        ("versions", f"Python {machine['python']}, torch {machine['torch']}, numpy {machine['numpy']}"),
    ]
    blocks = [
        page.table(("setting", "value"), facts, wrap=True),
        page.table(("optimizer", "default lr", "sweep", "fingerprint", "is also given"), sweeps, wrap=True),
        page.details("What the figures mean", *(page.paragraph(text) for text in _DEFINITIONS)),
    ]
    failures = [
        (run.cell.optimizer, run.cell.task, f"{run.cell.learning_rate:g}", run.error)
        for run in results.failures()
    ]
    if failures:
        blocks.append(
            page.details(
                "Failed runs", page.table(("optimizer", "task", "lr", "message"), failures, wrap=True)
            )
        )
    return blocks


def _taken(entry: Entry) -> str:
    return " and ".join(_TAKES[need] for need in entry.takes) or "–"


def _of_task(results: Results, task: TaskInfo) -> list[Summary]:
    return [summary for summary in results.summaries if summary.task == task.name]


def _metric(task: TaskInfo, validation: dict[str, Interval]) -> str:
    value = validation[task.metric].value
    return f"{value:.1%}" if task.metric == "accuracy" else f"{task.metric} {value:.3g}"


def _good_rates(summary: Summary) -> str:
    found = summary.sensitivity
    if found is None:
        return "–"
    return f"{'≥ ' if found.open_ended else ''}{found.factor:.3g}×"


def _range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "one seed, no interval"
    return f"95 % interval {interval.low:.2f} to {interval.high:.2f}"


def _step(step: int | None, task: TaskInfo) -> str:
    return f"{step:,}" if step else f"> {task.steps:,}"


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


_CURVES = (
    "The best setting of each optimizer; of a learned one its default learning rate too (dashed). Lines are "
    "means over seeds, smoothed over a tenth of the steps; bands run from the lowest to the highest seed."
)
_SENSITIVITY = (
    "Mean final training loss at every learning rate. A cross at the top is a setting that diverged or ended "
    "above the highest loss at which a run began."
)
_TAKES = {
    "loss": "the loss of every batch",
    "steps": "the number of steps",
    "graph": "gradients that can be differentiated again",
}
_DEFINITIONS = (
    "Final loss: mean training loss over the last tenth of the steps and over seeds; 95 % interval.",
    "Speed-up: both optimizers race to within 1 % of the worse of their two final losses: the steps of the "
    "reference divided by this optimizer's. Each takes part with its best setting at every step. Below 1 the "
    "reference is faster. Over several tasks: the interquartile mean on a log scale.",
    "Matched at: the step at which the best of the reference's settings is at this optimizer's final loss. "
    "Matches at: the step at which the best of this optimizer's settings is at the reference's final loss.",
    "Good lr: the factor between the highest and the lowest rate around the best at which the "
    "final loss is within 10 % of the best; “≥” where the sweep ends there.",
    "Diverged: share of the runs of the sweep whose loss was not finite or rose by over 100 times "
    "its first value. ms a step: the optimizer's own time. State: floats a parameter.",
)
