"""One self-contained HTML page: no script, no network, light and dark, wide and narrow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from tasks.benchmark.palette import DARK, LIGHT, css_variables
from tasks.files import atomic_write_text

Html = str


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: Its heading, plain text; none if empty.
        blocks: HTML from the functions of this module, in order.
    """

    title: str
    blocks: Sequence[Html]


def write_page(
    path: str | os.PathLike[str], title: str, sections: Iterable[Section], *, lead: str = "", footer: str = ""
) -> None:
    """Write one HTML file that needs nothing else.

    Args:
        path: The file; its folder must exist.
        title: The page's heading, plain text.
        sections: What it shows, in order.
        lead: A sentence or two under the heading, plain text.
        footer: A line at the end, plain text.

    Raises:
        OSError: If the file cannot be written; a previous one stays whole.
    """
    body = "\n".join(_section(section) for section in sections)
    atomic_write_text(
        path,
        _PAGE.format(
            title=escape(title),
            style=_STYLE,
            lead=f'<p class="lead">{escape(lead)}</p>' if lead else "",
            body=body,
            footer=f"<footer>{escape(footer)}</footer>" if footer else "",
        ),
    )


def paragraph(text: str) -> Html:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def code(text: str) -> Html:
    """Lines of code or of a terminal."""
    return f"<pre><code>{escape(text)}</code></pre>"


def tiles(figures: Iterable[tuple[str, str]]) -> Html:
    """Large figures side by side.

    Args:
        figures: Each figure and what it is, plain text.
    """
    items = (
        f"<div><strong>{escape(value)}</strong><span>{escape(label)}</span></div>" for value, label in figures
    )
    return f'<div class="tiles">{"".join(items)}</div>'


def gallery(figures: Iterable[tuple[Html, str]]) -> Html:
    """Figures in a grid that folds to one column on a phone.

    Args:
        figures: Inline SVG, as from `plots.inline_svg`, and its caption, plain text.
    """
    items = (f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for svg, caption in figures)
    return f'<div class="gallery">{"".join(items)}</div>'


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, strong: Iterable[int] = (), wrap: bool = False
) -> Html:
    """A table whose first column is its label; it scrolls sideways where it does not fit.

    Args:
        header: Column titles, plain text.
        rows: Cells, plain text, as many as titles. A first cell that repeats the one above stays empty.
        strong: Indices of rows to emphasise.
        wrap: Whether cells hold prose, which breaks into lines.
    """
    emphasised = set(strong)
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    lines, above = [], None
    for index, (label, *cells) in enumerate(rows):
        shown = "" if label == above else escape(label)
        classes = [
            name for name, wanted in (("strong", index in emphasised), ("group", label != above)) if wanted
        ]
        mark = f' class="{" ".join(classes)}"' if classes else ""
        data = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr{mark}><th scope="row">{shown}</th>{data}</tr>')
        above = label
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    kind = ' class="wrap"' if wrap else ""
    return f'<div class="scroll"><table{kind}>{body}</table></div>'


def details(summary: str, *blocks: Html) -> Html:
    """Blocks that show on demand, under a line of plain text."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(blocks)}</details>"


def _section(section: Section) -> Html:
    heading = f"<h2>{escape(section.title)}</h2>" if section.title else ""
    return f"<section>{heading}{''.join(section.blocks)}</section>"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>{lead}</header>
{body}
{footer}
</main>
</body>
</html>
"""

_STYLE = f"""
:root {{ color-scheme: light dark; {css_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {css_variables(DARK)} }} }}
* {{ box-sizing: border-box; }}
body {{
  margin: 0; background: var(--ground); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}}
main {{ max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 0.5rem; }}
h1 {{ text-wrap: balance; }}
h2 {{ font-size: 1.2rem; line-height: 1.3; margin: 2.75rem 0 0.75rem; }}
p {{ max-width: 46rem; margin: 0.5rem 0; }}
.lead {{ font-size: 1.1rem; color: var(--muted); }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: 0.75rem; }}
.tiles {{ margin: 1.5rem 0 1rem; }}
.tiles div {{
  background: var(--surface); border: 1px solid var(--grid); border-radius: 10px; padding: 0.9rem 1rem;
}}
.tiles strong {{ display: block; font-size: 1.7rem; line-height: 1.2; font-weight: 650; }}
.tiles strong {{ font-variant-numeric: tabular-nums; letter-spacing: -0.02em; }}
.tiles span {{ display: block; margin-top: 0.2rem; }}
.tiles span, figcaption {{ color: var(--muted); font-size: 0.86rem; line-height: 1.4; }}
.gallery {{ display: grid; gap: 1rem; }}
.gallery {{ grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }}
figure {{
  margin: 0; background: var(--surface); border: 1px solid var(--grid); border-radius: 10px; padding: 0.9rem;
}}
figure svg {{ display: block; width: 100%; height: auto; max-width: 36rem; margin: 0 auto; }}
figcaption {{ margin-top: 0.5rem; }}
figure svg text {{ fill: var(--ink); }}
.scroll {{
  overflow-x: auto; background: var(--surface); border: 1px solid var(--grid); border-radius: 10px;
  margin: 0.75rem 0;
}}
table {{ border-collapse: collapse; width: 100%; font-size: 0.86rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.5rem 0.65rem; text-align: left; white-space: nowrap; vertical-align: baseline; }}
thead th {{ color: var(--muted); font-weight: 500; line-height: 1.3; }}
thead th {{ white-space: normal; vertical-align: bottom; }}
tbody th {{ font-weight: 600; }}
table.wrap td {{ white-space: normal; overflow-wrap: anywhere; }}
tbody tr.group > * {{ border-top: 1px solid var(--grid); }}
tr.strong td {{ font-weight: 600; }}
details {{ margin: 0.75rem 0; }}
summary {{ cursor: pointer; color: var(--muted); }}
pre {{
  background: var(--surface); border: 1px solid var(--grid); border-radius: 10px; padding: 0.8rem 1rem;
  overflow-x: auto; font: 0.88rem/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace;
}}
footer {{ color: var(--muted); font-size: 0.86rem; margin-top: 3rem; }}
@media (max-width: 40rem) {{
  main {{ padding: 1.5rem 0.9rem 3rem; }}
  h1 {{ font-size: 1.5rem; }}
  .tiles {{ grid-template-columns: 1fr 1fr; gap: 0.6rem; }}
  .tiles strong {{ font-size: 1.35rem; }}
  figure {{ padding: 0.6rem; }}
}}
"""
