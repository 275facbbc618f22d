import re

import pytest

from tasks.benchmark import Section, write_page
from tasks.benchmark.report import page
from tasks.benchmark.report.page import Column, TableCell
from tasks.benchmark.report.palette import SERIES
from tasks.benchmark.report.plots import inline_svg, new_figure
from tests.tasks.pages import check_page


def test_write_page_escapes_and_nests(tmp_path):
    figure, axes = new_figure("a < b & c")
    axes.plot([1, 2], [1, 10], color=SERIES[0])
    svg = inline_svg(figure, "what <it> shows")
    blocks = [
        page.paragraph("1 < 2 & 3"),
        page.code("learned-opt bench --tasks '<name>'"),
        page.tiles([("1.3×", "<speed-up>")]),
        page.gallery([(svg, "cap & tion")]),
        page.panels([("<small>", "its & line", "<svg></svg>")]),
        page.table(("a", "b"), [("x", "<y>"), ("x", "z")], strong=[1], wrap=True),
        page.details("more", page.paragraph("inside")),
        page.heading("Part & parcel", anchor=True),
        page.links(["Part & parcel", "One"]),
        page.definitions([("<term>", "mean & ing")]),
    ]
    path = tmp_path / "page.html"
    sections = [Section("One", blocks, anchor=True), Section("", [])]
    write_page(path, "Title & <tag>", sections, lead="lead")
    words = check_page(path.read_text())
    for text in (
        "Title & <tag>",
        "1 < 2 & 3",
        "'<name>'",
        "<speed-up>",
        "cap & tion",
        "<small>",
        "<y>",
        "a < b & c",
        "<term>",
        "mean & ing",
    ):
        assert text in words


def test_a_page_may_load_nothing(tmp_path):
    write_page(tmp_path / "page.html", "Title", [])
    assert "default-src 'none'" in (tmp_path / "page.html").read_text()


def test_a_label_that_repeats_shows_once_unless_rows_may_move():
    rows = [("x", "1"), ("x", "2")]
    assert page.table(("a", "b"), rows).count(">x<") == 1
    assert page.table(("a", "b"), rows, sortable=True).count(">x<") == 2


@pytest.mark.parametrize(
    ("key", "attribute"),
    [
        (0.5, ' data-sort="0.5"'),
        (1 / 3, ' data-sort="0.333333333"'),
        (float("inf"), ' data-sort=""'),
        ("", ' data-sort=""'),
        ('"<&', ' data-sort="&quot;&lt;&amp;"'),
        (None, ""),
    ],
)
def test_cells_tell_what_they_sort_by(key, attribute):
    html = page.table(("a", "b"), [("x", TableCell("1.2×", key=key, note="1–2", bad=True))], sortable=True)
    assert f'<td class="bad"{attribute}>1.2×<small>1–2</small></td>' in html


def test_columns_tell_how_they_sort_first():
    columns = (Column("name"), Column("speed", descending=True, sorted_by=True))
    html = page.table(columns, [("x", "1")], sortable=True)
    assert '<th scope="col">name</th>' in html
    assert '<th scope="col" data-first="descending" aria-sort="descending">speed</th>' in html
    assert "aria-sort" not in page.table(columns, [("x", "1")])


def test_anchors_lead_to_their_titles():
    (target,) = re.findall(r'href="#([^"]*)"', page.links(["By the clock: <1>"]))
    assert f'id="{target}"' in page.heading("By the clock: <1>", anchor=True)
    assert "id=" not in page.heading("By the clock")
