"""The tables of a benchmark as Markdown and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.benchmark.report.page import Column, TableCell
from tasks.benchmark.report.tables import HEADER, OVERVIEW_HEADER, overview_rows, task_rows
from tasks.benchmark.report.wording import headline_text, lead_text
from tasks.benchmark.results import Results
from tasks.files import atomic_write_text

LEFT = ("optimizer", "setting", "is also given")
LATEX_LEAVES_OUT = ("mean loss", "matched at", "matches at", "failed", "is also given")
MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$])")
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "×": r"\ensuremath{\times}",
    "≥": r"\ensuremath{\geq}",
    "–": "--",
    "−": r"\ensuremath{-}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
LATEX_HEADER = r"""% For \input. The preamble needs:
% \usepackage[T1]{fontenc}
% \usepackage{booktabs,graphicx,textcomp}
"""


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        name: Of its label in LaTeX.
        title: What it shows, plain text.
        header: Titles of the columns.
        rows: The cells, as many in each row.
        strong: Index of rows to set off.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()

    def without(self, titles: Sequence[str]) -> Table:
        """The table without some columns."""
        kept = [index for index, title in enumerate(self.header) if title not in titles]
        rows = tuple(tuple(cells[index] for index in kept) for cells in self.rows)
        return Table(self.name, self.title, tuple(self.header[index] for index in kept), rows, self.strong)


def write_tables(results: Results, folder: Path) -> None:
    """Write ``tables.md`` and ``tables.tex``: a table over all tasks, and one for each.

    Args:
        results: What to report.
        folder: Where; it exists.

    Raises:
        OSError: If a file cannot be written; previous files stay whole.
    """
    tables = tables_of(results)
    introduction = f"{_markdown(headline_text(results))}\n\n{_markdown(lead_text(results))}"
    texts = [f"# {introduction}", *map(markdown_table, tables)]
    atomic_write_text(folder / "tables.md", "\n\n".join(texts) + "\n")
    shorter = [latex_table(table.without(LATEX_LEAVES_OUT)) for table in tables]
    atomic_write_text(folder / "tables.tex", LATEX_HEADER + "\n".join(shorter))


def tables_of(results: Results) -> list[Table]:
    """The page's tables as text: over all tasks, then one for each, its lowest final losses set off."""
    tables = [_table("all", "All tasks", OVERVIEW_HEADER, overview_rows(results))]
    for task in results.tasks.values():
        rows, strong = task_rows(results, task)
        tables.append(_table(task.name, f"{task.name}, {task.steps:,} steps", HEADER, rows, strong))
    return tables


def markdown_table(table: Table) -> str:
    """A heading and a table in GitHub's Markdown."""
    lines = [table.header, ["---" if title in LEFT else "---:" for title in table.header]]
    for index, cells in enumerate(table.rows):
        escaped = [_markdown(text) for text in cells]
        lines.append([f"**{escaped[0]}**", *escaped[1:]] if index in table.strong else escaped)
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"## {_markdown(table.title)}\n\n{body}"


def latex_table(table: Table) -> str:
    """A floating table with booktabs' rules, shrunk to the width of the text if need be."""
    columns = "".join("l" if title in LEFT else "r" for title in table.header)
    lines = []
    for index, cells in enumerate(table.rows):
        escaped = [_latex(text) for text in cells]
        if index in table.strong:
            escaped[0] = rf"\textbf{{{escaped[0]}}}"
        lines.append(" & ".join(escaped) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.title)}}}",
            rf"\label{{tab:benchmark-{re.sub(r'[^A-Za-z0-9-]', '-', table.name)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            " & ".join(map(_latex, table.header)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def _table(
    name: str,
    title: str,
    header: Sequence[Column],
    rows: Sequence[Sequence[TableCell]],
    strong: Iterable[int] = (),
) -> Table:
    texts = tuple(tuple(map(_text, cells)) for cells in rows)
    return Table(name, title, tuple(column.title for column in header), texts, frozenset(strong))


def _text(cell: TableCell) -> str:
    return f"{cell.text} [{cell.note}]" if cell.note else cell.text


def _markdown(text: str) -> str:
    return MARKDOWN_SPECIAL.sub(r"\\\1", text).replace("\n", " ")


def _latex(text: str) -> str:
    escaped = "".join(LATEX_SPECIAL.get(character, character) for character in text.replace("\n", " "))
    return re.sub(r"(?<![\w-])-(?=\d)", r"\\ensuremath{-}", escaped)
