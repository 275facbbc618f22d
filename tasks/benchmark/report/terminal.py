"""The leading figures of a benchmark in a terminal of 80 columns."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tasks.benchmark.report.page import TableCell
from tasks.benchmark.report.tables import HEADER, OVERVIEW_HEADER, overview_rows, row, step_time_unit
from tasks.benchmark.report.wording import caveat_text, headline_text, reference_text
from tasks.benchmark.results import Results
from tasks.benchmark.settings import TaskInfo

OVERVIEW = {
    "optimizer": "optimizer",
    "speed-up, tuned": "speed-up",
    "speed-up, default lr": "default lr",
    "by the clock, tuned": "by clock",
    "P(better), tuned": "P(better)",
    "diverged": "div.",
    "step time": "step",
}
TASK = {
    "optimizer": "optimizer",
    "setting": "setting",
    "final loss": "loss",
    "validation": "valid.",
    "speed-up": "speed-up",
    "diverged": "div.",
    "ms a step": "ms",
}


def terminal_table(results: Results) -> Group:
    """The leading figures, for ``rich.print``: over all tasks, if there are several, and on each."""
    tables = [_task_table(results)]
    if len(results.tasks) > 1:
        tables.insert(0, _overview(results))
    caveat = caveat_text(results)
    words = [Text(headline_text(results), style="bold"), *([Text(caveat, style="yellow")] if caveat else [])]
    return Group(*words, *tables, Text(_legend(results), style="dim"))


def _legend(results: Results) -> str:
    """What the columns mean whose titles are short."""
    settings, parts = results.settings, ["div.: runs that diverged", "ms: the optimizer's own time a step"]
    if len(results.tasks) > 1 and (unit := step_time_unit(results)):
        parts.append(f"step: that relative to {settings.entry(unit).label}'s")
    if settings.references:
        limits = ", with 95 % intervals below" if len(settings.seeds) > 1 else ""
        parts.insert(0, f"speed-up: over {reference_text(results)}{limits}")
    return "; ".join(parts)


def _overview(results: Results) -> Table:
    table = _new_table(OVERVIEW)
    titles = [column.title for column in OVERVIEW_HEADER]
    for cells in overview_rows(results):
        shown = dict(zip(titles, cells, strict=True))
        table.add_row(*(_text(shown[title]) for title in OVERVIEW))
    return table


def _task_table(results: Results) -> Table:
    table = _new_table(TASK)
    for task in results.tasks.values():
        _add_task(table, results, task)
        table.add_section()
    return table


def _add_task(table: Table, results: Results, task: TaskInfo) -> None:
    titles = [column.title for column in HEADER]
    table.add_row(Text(task.name, style="bold"))
    for summary in results.summaries:
        if summary.task != task.name:
            continue
        shown = dict(zip(titles, row(results, task, summary), strict=True))
        texts = {title: _text(shown[title]) for title in TASK}
        setting = shown["setting"].text
        texts["setting"] = Text("lr " * (summary.learning_rate is not None) + setting.replace(" ", "\n", 1))
        texts["diverged"] = Text(str(texts["diverged"]).replace(" ", "\n"), style=texts["diverged"].style)
        for title in ("final loss", "validation"):
            texts[title] = Text(shown[title].text.split(" ")[0])
        table.add_row(*texts.values())


def _new_table(titles: dict[str, str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for title, short in titles.items():
        left = title in ("optimizer", "setting")
        table.add_column(short, justify="left" if left else "right", no_wrap=title != "optimizer")
    return table


def _text(cell: TableCell) -> Text:
    """A figure above its interval."""
    return Text(f"{cell.text}\n{cell.note}" if cell.note else cell.text, style="red" if cell.bad else "")
