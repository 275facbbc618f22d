"""One self-contained HTML page: no network, light and dark, wide and narrow; its script sorts tables."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from tasks.benchmark.report.script import SCRIPT
from tasks.benchmark.report.style import STYLE
from tasks.files import atomic_write_text

Html = str


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: Its heading, plain text; none if empty.
        blocks: HTML from the functions of this module, in order.
        anchor: Whether `links` may lead to it; its title is then unique on the page.
    """

    title: str
    blocks: Sequence[Html]
    anchor: bool = False


@dataclass(frozen=True)
class TableCell:
    """A cell with more than text.

    Attributes:
        text: What it shows, plain text.
        key: What it sorts by, a number or text; ``""`` or a number that is not finite comes last, and None
            sorts by the text.
        note: A second, smaller line, plain text.
        bad: Whether it is red.
        mark: HTML before the text, such as `looks.Look.swatch`.
    """

    text: str
    key: float | str | None = None
    note: str = ""
    bad: bool = False
    mark: Html = ""


@dataclass(frozen=True)
class Column:
    """The title of a column of a sortable table.

    Attributes:
        title: Plain text.
        descending: Whether a first click puts the largest on top.
        sorted_by: Whether the rows come sorted by it.
    """

    title: str
    descending: bool = False
    sorted_by: bool = False


def write_page(
    path: str | os.PathLike[str], title: str, sections: Iterable[Section], *, lead: str = ""
) -> None:
    """Write one HTML file that needs nothing else.

    Args:
        path: The file; its folder must exist.
        title: The page's heading, plain text.
        sections: What it shows, in order.
        lead: A sentence or two under the heading, plain text.

    Raises:
        OSError: If the file cannot be written; a previous one stays whole.
    """
    body = "\n".join(_section(section) for section in sections)
    atomic_write_text(
        path,
        _PAGE.format(
            title=escape(title),
            policy=_POLICY,
            style=STYLE,
            script=SCRIPT,
            lead=f'<p class="lead">{_prose(lead)}</p>' if lead else "",
            body=body,
        ),
    )


def paragraph(text: str) -> Html:
    """A paragraph of plain text."""
    return f"<p>{_prose(text)}</p>"


def code(text: str) -> Html:
    """Lines of code or of a terminal."""
    return f"<pre><code>{escape(text)}</code></pre>"


def tiles(figures: Iterable[tuple[str, str]]) -> Html:
    """Large figures side by side.

    Args:
        figures: Each figure and what it is, plain text.
    """
    items = (
        f"<div><strong>{escape(value)}</strong><span>{_prose(label)}</span></div>" for value, label in figures
    )
    return f'<div class="tiles">{"".join(items)}</div>'


def panels(figures: Iterable[tuple[str, str, Html]]) -> Html:
    """Small figures under a title each, in a grid of two columns on a phone and more elsewhere.

    Args:
        figures: Title and a second line, plain text, and inline SVG.
    """
    items = (
        f"<figure><figcaption><b>{escape(title)}</b>{escape(text)}</figcaption>{svg}</figure>"
        for title, text, svg in figures
    )
    return f'<div class="gallery small">{"".join(items)}</div>'


def gallery(figures: Iterable[tuple[Html, str]]) -> Html:
    """Figures in a grid that folds to one column on a phone.

    Args:
        figures: Inline SVG, as from `plots.inline_svg`, and its caption, plain text.
    """
    items = (f"<figure>{svg}{_caption(caption)}</figure>" for svg, caption in figures)
    return f'<div class="gallery">{"".join(items)}</div>'


def table(
    header: Sequence[str | Column],
    rows: Iterable[Sequence[str | TableCell]],
    *,
    strong: Iterable[int] = (),
    wrap: bool = False,
    sortable: bool = False,
) -> Html:
    """A table whose first column is its label; it scrolls sideways where it does not fit.

    Args:
        header: Column titles, plain text or with what a sortable table needs to know.
        rows: Cells, plain text or more, as many as titles. A first cell that repeats the one above stays
            empty, unless the table is sortable.
        strong: Indices of rows to emphasise.
        wrap: Whether cells hold prose, which breaks into lines.
        sortable: Whether a click on a title sorts the rows.
    """
    emphasised = set(strong)
    head = "".join(_title(title, sortable) for title in header)
    lines, above = [], None
    for index, cells in enumerate(rows):
        label, *others = (cell if isinstance(cell, TableCell) else TableCell(cell) for cell in cells)
        shown = TableCell("") if label == above and not sortable else label
        marks = {"strong": index in emphasised, "group": label != above and not sortable}
        classes = " ".join(name for name, wanted in marks.items() if wanted)
        data = _cell(shown, "th", sortable) + "".join(_cell(cell, "td", sortable) for cell in others)
        lines.append(f'<tr class="{classes}">{data}</tr>' if classes else f"<tr>{data}</tr>")
        above = label
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    kind = " ".join(name for name, wanted in (("wrap", wrap), ("sortable", sortable)) if wanted)
    classed = f' class="{kind}"' if kind else ""
    return f'<div class="scroll" tabindex="0"><table{classed}>{body}</table></div>'


def heading(text: str, *, anchor: bool = False) -> Html:
    """A heading within a section, plain text, to which `links` may lead."""
    mark = f' id="{_anchor(text)}"' if anchor else ""
    return f"<h3{mark}>{escape(text)}</h3>"


def links(titles: Iterable[str]) -> Html:
    """Links to sections and headings with anchors, by their titles."""
    items = (f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title in titles)
    return f"<nav>{''.join(items)}</nav>"


def definitions(terms: Iterable[tuple[str, str]]) -> Html:
    """Terms and what they mean, plain text."""
    items = (f"<dt>{escape(term)}</dt><dd>{_prose(text)}</dd>" for term, text in terms)
    return f"<dl>{''.join(items)}</dl>"


def details(summary: str, *blocks: Html, is_open: bool = False) -> Html:
    """Blocks that show on demand, under a line of plain text."""
    mark = " open" if is_open else ""
    return f"<details{mark}><summary>{escape(summary)}</summary>{''.join(blocks)}</details>"


def _prose(text: str) -> Html:
    """Plain text in which no line begins with a percent sign."""
    return escape(text).replace(" %", "\N{NO-BREAK SPACE}%")


def _anchor(title: str) -> str:
    """An identifier for a title, in which whatever is no letter or digit is a hyphen."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def _caption(caption: str) -> Html:
    return f"<figcaption>{_prose(caption)}</figcaption>" if caption else ""


def _title(title: str | Column, sortable: bool) -> Html:
    column = title if isinstance(title, Column) else Column(title)
    attributes = ' scope="col"'
    if sortable and column.descending:
        attributes += ' data-first="descending"'
    if sortable and column.sorted_by:
        attributes += f' aria-sort="{"descending" if column.descending else "ascending"}"'
    return f"<th{attributes}>{escape(column.title)}</th>"


def _cell(cell: TableCell, tag: str, sortable: bool) -> Html:
    attributes = ' scope="row"' if tag == "th" else ""
    attributes += ' class="bad"' if cell.bad else ""
    if sortable and cell.key is not None:
        key = cell.key
        if isinstance(key, float):
            key = f"{key:.9g}" if math.isfinite(key) else ""
        attributes += f' data-sort="{escape(str(key))}"'
    note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
    return f"<{tag}{attributes}>{cell.mark}{escape(cell.text)}{note}</{tag}>"


def _section(section: Section) -> Html:
    anchor = f' id="{_anchor(section.title)}"' if section.anchor else ""
    heading = f"<h2{anchor}>{escape(section.title)}</h2>" if section.title else ""
    return f"<section>{heading}{''.join(section.blocks)}</section>"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>{lead}</header>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
