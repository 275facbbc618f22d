"""The page that the quickstart leaves behind."""

from collections.abc import Mapping
from pathlib import Path

from learned_opt import Checkpoint
from meta_train.log import read_log
from meta_train.masks import mask_plot
from tasks.benchmark import Results, Section, write_page
from tasks.benchmark.report import page
from tasks.benchmark.report.palette import SERIES
from tasks.benchmark.report.plots import inline_svg, new_figure
from tasks.benchmark.report.tables import HEADER, row
from tasks.benchmark.report.task_plots import curve_plot, sensitivity_plot
from tasks.benchmark.report.wording import headline_text

LEAD = (
    "Every optimizer starts from the same weights, sees the same batches, and runs at the same learning "
    "rates and schedules."
)
CURVES = (
    "The best learning rate of each optimizer, by final training loss; in fine dashes a learned optimizer at "
    "its default learning rate. Bands run from the lowest to the highest seed."
)
MASKS = (
    "How much a gradient still counts after so many steps. Adam's momentum forgets exponentially; each of "
    "the learned averages began as an exponential too, and the meta-training bent it."
)
META_TRAINING = (
    "Meta-loss of the new optimizer while it was made, on tasks other than those above: 1 is a loss that "
    "does not fall, 0 is perfect. It starts as Adam."
)
USE = """\
from learned_opt import FLT, LearnedOptimizer

optimizer = FLT(model.parameters())  # the one that ships
optimizer = LearnedOptimizer.from_pretrained({folder!r}, model.parameters())  # the new one"""


def write_quickstart_page(
    path: Path, results: Results, checkpoints: Mapping[str, Checkpoint], folder: Path
) -> None:
    """Write the page.

    Args:
        path: The file.
        results: Of the benchmark.
        checkpoints: The learned optimizers, by what to call them.
        folder: Of the meta-training.

    Raises:
        OSError: If the file cannot be written.
    """
    tasks = results.tasks.values()
    curves = [
        (inline_svg(curve_plot(results, task.name)), f"{task.description.rstrip('.')}; {task.steps:,} steps.")
        for task in tasks
    ]
    rates = [
        (inline_svg(sensitivity_plot(results, task.name)), f"Mean final training loss on {task.name}.")
        for task in tasks
    ]
    masks = [
        (inline_svg(mask_plot(checkpoint, f"What {name} remembers")), _lesson(checkpoint))
        for name, checkpoint in checkpoints.items()
    ]
    rows: list[list[str | page.TableCell]] = [
        [one.task, *row(results, results.tasks[one.task], one)] for one in results.summaries
    ]
    sections = [
        Section("Training", [page.paragraph(CURVES), page.gallery(curves)]),
        Section("Every learning rate", [page.gallery(rates)]),
        Section("What they remember", [page.paragraph(MASKS), page.gallery(masks)]),
        Section(
            "Making the new optimizer",
            [page.paragraph(META_TRAINING), page.gallery([(_meta_training_svg(folder), _outcome(folder))])],
        ),
        Section("Figures", [page.table(("task", *HEADER), rows)]),
        Section("Use them", [page.code(USE.format(folder=str(folder)))]),
    ]
    write_page(path, headline_text(results), sections, lead=LEAD)


def _lesson(checkpoint: Checkpoint) -> str:
    training = checkpoint.facts.get("meta_training")
    steps = checkpoint.facts.get("inner_steps")
    if not isinstance(training, dict) or not isinstance(steps, int):
        return "How it was meta-trained was not recorded."
    families = training.get("families")
    names = ", ".join(map(str, families)) if isinstance(families, list) else "unknown tasks"
    return f"Meta-trained for {steps:,} inner steps on {names}."


def _meta_training_svg(folder: Path) -> str:
    records = read_log(folder)
    figure, axes = new_figure("Meta-training")
    axes.plot(
        [record["step"] for record in records], [record["meta_loss"] for record in records], color=SERIES[0]
    )
    axes.set_xlabel("outer step")
    axes.set_ylabel("meta-loss")
    return inline_svg(figure)


def _outcome(folder: Path) -> str:
    scores = [record["validation"] for record in read_log(folder) if "validation" in record]
    if not scores:
        return "It was not validated."
    return (
        f"Best validation score {min(scores):+.3f}: the logarithm of its final loss over tuned Adam's, on "
        "tasks that it was not trained on. Below 0 is better than Adam."
    )
