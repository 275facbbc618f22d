"""What a benchmark leaves behind: ``results.json``, plots, tables, and one page."""

from __future__ import annotations

from pathlib import Path

from tasks.benchmark.figures.summary import Headline
from tasks.benchmark.report import page
from tasks.benchmark.report.export import write_tables
from tasks.benchmark.report.overview_plots import cost_plot, profile_plot, speedup_plot
from tasks.benchmark.report.page import Section, write_page
from tasks.benchmark.report.path_panels import has_paths, path_panels
from tasks.benchmark.report.plots import inline_svg, png
from tasks.benchmark.report.rate_panels import rate_panels
from tasks.benchmark.report.settings_blocks import DEFINITIONS, settings_blocks
from tasks.benchmark.report.tables import failure_table, overview_table, step_time_unit, task_table
from tasks.benchmark.report.task_plots import curve_plot, sensitivity_plot
from tasks.benchmark.report.wording import (
    compute_text,
    headline_text,
    lead_text,
    range_text,
    reference_text,
)
from tasks.benchmark.results import Results
from tasks.benchmark.settings import TaskInfo
from tasks.files import atomic_write_bytes, atomic_write_text

OVERVIEW, SPEEDUPS, TASKS, PATHS = "All tasks", "Speed-up by task", "Task by task", "Paths"
CLOCK, SETTINGS, FAILURES, MEANING = "By the clock", "Settings", "Failed runs", "What the figures mean"


def write_report(results: Results, folder: Path) -> None:
    """Write ``results.json``, ``index.html``, the plots, and the tables as Markdown and LaTeX.

    Args:
        results: What to report.
        folder: Where; it exists.

    Raises:
        OSError: If a file cannot be written; previous files stay whole.
    """
    atomic_write_text(folder / "results.json", results.to_json())
    write_tables(results, folder)
    per_task = [block for task in results.tasks.values() for block in _task_blocks(results, task, folder)]
    sections = [
        Section("", [page.tiles(_tiles(results))]),
        Section(OVERVIEW, _overview_blocks(results), anchor=True),
        *_speedup_sections(results),
        Section(TASKS, [*map(page.paragraph, _CURVES), page.links(results.tasks), *per_task], anchor=True),
        *_path_sections(results),
        *_clock_sections(results),
        *_failure_sections(results),
        Section(SETTINGS, settings_blocks(results), anchor=True),
        Section(MEANING, [page.definitions(DEFINITIONS)], anchor=True),
    ]
    anchors = page.links(section.title for section in sections if section.anchor)
    sections[0] = Section("", [page.tiles(_tiles(results)), anchors])
    write_page(folder / "index.html", headline_text(results), sections, lead=lead_text(results))


def _task_blocks(results: Results, task: TaskInfo, folder: Path) -> list[page.Html]:
    """A task's curves, learning rates and figures; its plots go to the folder too."""
    figures = []
    for kind, plot in (("curves", curve_plot), ("lr", sensitivity_plot)):
        drawn = plot(results, task.name)
        atomic_write_bytes(folder / f"{kind}-{task.name}.png", png(drawn))
        figures.append((inline_svg(drawn, f"{kind} on {task.name}"), ""))
    return [
        page.heading(task.name, anchor=True),
        page.paragraph(f"{task.description.rstrip('.')}; {task.steps:,} steps."),
        page.gallery(figures),
        page.details(
            f"All learning rates on {task.name}",
            page.paragraph(_RATES),
            page.panels(rate_panels(results, task.name)),
        ),
        task_table(results, task),
    ]


def _tiles(results: Results) -> list[tuple[str, str]]:
    """The headline's figures: speed-ups over all tasks, the probability of improvement, and the size."""
    shown, figures = results.headline, []
    headlines = [line for line in results.headlines if shown and line.optimizer == shown.optimizer]
    figures += [_headline_tile(results, line) for line in headlines]
    if shown and shown.wall_speedup:
        text = f"speed-up by the clock, {range_text(shown.wall_speedup)}"
        figures.append((f"{shown.wall_speedup.value:.2f}×", text))
    if shown and shown.improvement:
        figures.append((f"{shown.improvement.value:.0%}", f"of runs end below {reference_text(results)}"))
    figures.append((f"{len(results.cells):,}", f"runs in {compute_text(results)}"))
    return figures


def _headline_tile(results: Results, headline: Headline) -> tuple[str, str]:
    label = results.settings.entry(headline.optimizer).label
    sweep = results.settings.sweeps[headline.optimizer]
    kind = "tuned over its sweep" if len(sweep) > 1 else f"at learning rate {sweep[0]:g}"
    if headline.choice == "default":
        kind = "at its default learning rate"
    if headline.speedup is None:
        return "–", f"speed-up of {label} {kind}"
    return f"{headline.speedup.value:.2f}×", f"speed-up of {label} {kind}, {range_text(headline.speedup)}"


def _overview_blocks(results: Results) -> list[page.Html]:
    blocks, figures = [page.paragraph(_overview_text(results)), overview_table(results)], []
    if results.profiles and len(results.tasks) > 1:
        figures.append((inline_svg(profile_plot(results), "performance profile"), _PROFILE))
    if results.timings and any(line.speedup for line in results.headlines):
        figures.append((inline_svg(cost_plot(results), "speed-up over step time"), _COST))
    return [*blocks, page.gallery(figures)] if figures else blocks


def _overview_text(results: Results) -> str:
    unit = step_time_unit(results)
    text = "A row an optimizer; the learned ones are bold."
    if results.settings.references:
        text += f" Speed-ups are over {reference_text(results)}; small print is the 95 % interval."
    if unit:
        text += f" Step time is the optimizer's own, relative to {results.settings.entry(unit).label}'s."
    return text


def _speedup_sections(results: Results) -> list[Section]:
    if not results.headlines:
        return []
    figures = [(inline_svg(speedup_plot(results), "speed-ups in steps"), "")]
    if any(line.wall_speedup for line in results.headlines):
        figures.append((inline_svg(speedup_plot(results, clock=True), "speed-ups by the clock"), ""))
    return [Section(SPEEDUPS, [page.paragraph(_DOTS), page.gallery(figures)], anchor=True)]


def _path_sections(results: Results) -> list[Section]:
    blocks = []
    for task in (name for name in results.tasks if has_paths(results, name)):
        for k, (seed, panels) in enumerate(path_panels(results, task).items()):
            shown = page.panels(panels)
            blocks.append(page.details(f"{task}, seed {seed}", shown, is_open=k == 0))
    return [Section(PATHS, [page.paragraph(_PATHS), *blocks], anchor=True)] if blocks else []


def _clock_sections(results: Results) -> list[Section]:
    if not results.timings:
        return []
    curves = [
        (inline_svg(curve_plot(results, task, seconds=True), f"curves on {task}"), "")
        for task in results.tasks
    ]
    shown = page.details("Training curves over seconds", page.gallery(curves))
    return [Section(CLOCK, [page.paragraph(_CLOCK), shown], anchor=True)]


def _failure_sections(results: Results) -> list[Section]:
    failed = len(results.failures())
    if not failed:
        return []
    text = f"{failed:,} of {len(results.cells):,} runs failed. A setting with a failed run is never chosen."
    return [Section(FAILURES, [page.paragraph(text), failure_table(results)], anchor=True)]


_CURVES = (
    "Each optimizer has one colour and dash on the whole page; learned optimizers are wide lines, references "
    "are grey. Click on a column's title to sort a table.",
    "Training curves: the best setting of each optimizer, and of a learned one its default learning rate "
    "(fine dashes). Lines are means over seeds, smoothed over a tenth of the steps; bands run from the "
    "lowest to the highest seed.",
    "Learning rates: mean final training loss at the schedule of the tuned setting, which has a ring. "
    "Crosses on top diverged, failed, or ended above the highest loss at which a run began.",
)
_RATES = (
    "Mean smoothed training loss at every setting, all with the same axes: the higher the learning rate, the "
    "stronger the line; the first schedule is solid, the others are dashed; the wide line is the tuned "
    "setting. A cross is where a setting lost a run."
)
_COST = (
    "What a step costs against what it gains: the optimizer's own time a step, and its speed-up in steps "
    "over all tasks, tuned, with its 95 % interval."
)
_DOTS = (
    "Dots with 95 % intervals; right of 1× is faster than the references. Hollow: a learned optimizer at its "
    "default learning rate. A cross at the left edge has no figure: nothing finished, or nothing progressed."
)
_PROFILE = (
    "The share of the tasks on which an optimizer gets to where the references end in at most so many times "
    "the steps of the fastest one; bands are 95 % intervals. Higher is better."
)
_PATHS = (
    "The path of each optimizer at its best setting. A seed draws the function and the start (square), equal "
    "for everyone; more shade is higher, the star is the lowest place in view, the dot the end of the path."
)
_CLOCK = (
    "The training curves over the seconds of one thread, a step's time from a short run of each optimizer "
    "alone. It depends on the size of model and batch: on large ones the optimizer's share vanishes."
)
