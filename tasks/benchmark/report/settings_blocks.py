"""What was chosen, on what it ran, and what the figures mean."""

from __future__ import annotations

from tasks.benchmark.report import page
from tasks.benchmark.report.looks import looks_of
from tasks.benchmark.report.page import TableCell
from tasks.benchmark.report.tables import taken
from tasks.benchmark.report.wording import compute_text, count, reference_text
from tasks.benchmark.results import Results, environment
from tasks.benchmark.settings import SELECTION


def settings_blocks(results: Results) -> list[page.Html]:
    """The settings of every run, the machine and the compute, as tables."""
    settings, machine = results.settings, environment()
    statuses = [run.status for run in results.cells]
    runs = ", ".join(f"{statuses.count(name):,} {name}" for name in ("finished", "diverged", "failed"))
    facts = [
        ("suite", settings.suite or "a free choice of tasks"),
        ("runs", f"{len(results.cells):,}: {runs}"),
        ("seeds", ", ".join(map(str, settings.seeds))),
        ("schedules", ", ".join(settings.schedules)),
        ("speed-ups are over", reference_text(results) if settings.references else "nobody"),
        ("a setting is chosen by", f"{SELECTION[settings.select]} among those that finished on every seed"),
        ("intervals", "95 %, percentile bootstrap over seeds, within each task"),
        ("compute", compute_text(results)),
        ("processor", f"{machine['cpu']}, {machine['cores']} cores"),
        ("device", f"{settings.device}{', ' + machine['gpu'] if machine['gpu'] else ''}"),
        ("versions", f"Python {machine['python']}, torch {machine['torch']}, numpy {machine['numpy']}"),
    ]
    tasks = [(task.name, f"{task.steps:,}", task.metric, task.description) for task in results.tasks.values()]
    return [
        page.table(("setting", "value"), facts, wrap=True),
        page.table(("task", "steps", "validation", "what"), tasks, wrap=True),
        _sweeps(results),
        page.details("The chosen setting of every optimizer on every task", _chosen(results)),
    ]


def _sweeps(results: Results) -> page.Html:
    settings, looks = results.settings, looks_of(results.settings)
    rows = []
    for entry in settings.entries:
        sweep = settings.sweeps[entry.name]
        rates = ", ".join(f"{rate:.3g}" for rate in sweep)
        budget = f"{count(sweep, 'rate')} × {count(settings.schedules, 'schedule')}"
        name = TableCell(entry.label, mark=looks[entry.name].swatch())
        rows.append((name, f"{entry.default_lr:g}", budget, rates, taken(entry), entry.fingerprint))
    header = ("optimizer", "default lr", "sweep", "learning rates", "is also given", "fingerprint")
    return page.table(header, rows, wrap=True)


def _chosen(results: Results) -> page.Html:
    header = ("optimizer", *results.tasks)
    rows = []
    for entry in results.settings.entries:
        cells = [TableCell(entry.label, mark=looks_of(results.settings)[entry.name].swatch())]
        for task in results.tasks:
            summary = results.summary(task, entry.name)
            found = summary is not None and summary.learning_rate is not None
            text = f"{summary.learning_rate:.2g} {summary.schedule}" if summary and found else "none finished"
            cells.append(
                TableCell(text, key=summary.learning_rate if summary and found else "", bad=not found)
            )
        rows.append(cells)
    return page.table(header, rows, sortable=True)


DEFINITIONS = (
    (
        "Tuned, default",
        "Tuned is the setting of the sweep with the best score, as the settings say; it is chosen on the "
        "seeds that are scored, which flatters everyone. Default is the best schedule at the learning rate "
        "with which a user would start.",
    ),
    ("Final loss", "Mean training loss over the last tenth of the steps, and over seeds."),
    ("Mean loss", "Mean training loss over all steps: the area under the curve, over the steps."),
    (
        "Speed-up",
        "Both sides race to within 1 % of the worse of their two final losses: the steps of the references "
        "divided by this optimizer's. Each takes part with its best setting at every step. Below 1 the "
        "references are faster. Over all tasks: the interquartile mean on a log scale.",
    ),
    (
        "By the clock",
        "The same race in seconds: steps to the target times the time of a whole training step, from a short "
        "run of its own on one thread. It holds for models and batches of this size.",
    ),
    (
        "P(better)",
        "Probability of improvement: the share of the seeds on which this optimizer ends with a lower "
        "training loss than the references' tuned setting; a tie is a half. Over all tasks: the mean.",
    ),
    (
        "Performance profile",
        "The share of the tasks on which an optimizer is where the references end, to within 1 %, after at "
        "most so many times the steps of the fastest. Higher is better: the left end is how often it is the "
        "fastest, the right end how often it gets there at all.",
    ),
    (
        "Matched at, matches at",
        "The step at which the best of the references' settings is at this optimizer's final loss; the step "
        "at which the best of this optimizer's settings is at the references' final loss.",
    ),
    (
        "Good lr",
        "The factor between the highest and the lowest learning rate around the best at which the final loss "
        "is within 10 % of the best; “≥” where the sweep ends there.",
    ),
    (
        "Diverged",
        "Share of the runs whose loss was not finite or rose by over 100 times its first value. A failed run "
        "is one whose optimizer or task raised, ran out of time, or whose process died.",
    ),
    (
        "ms a step, step time",
        "The optimizer's own time a step, measured alone; over all tasks the geometric mean, relative to "
        "Adam's, or to the first reference's where Adam does not take part.",
    ),
    ("State", "Floats that the optimizer keeps for every parameter."),
)
