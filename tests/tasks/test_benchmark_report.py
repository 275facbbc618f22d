import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from tasks.benchmark import Entry, Section, get_entry, page, run_benchmark, terminal_table, write_page
from tasks.benchmark.baselines import BASELINES
from tasks.benchmark.metrics import Interval
from tasks.benchmark.palette import DARK, LIGHT, SERIES
from tasks.benchmark.plots import inline_svg, new_figure, png
from tasks.benchmark.report import headline_text, interval_text
from tasks.benchmark.results import finite, thinned

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use"}


class Checker(HTMLParser):
    """Collects text, ids and whatever would leave the page, and checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.external, self.ids, self.uses, self.words = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self._collect(tag, dict(attributes))

    def handle_startendtag(self, tag, attributes):
        self._collect(tag, dict(attributes))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def _collect(self, tag, attributes):
        self.ids += [attributes["id"]] if "id" in attributes else []
        target = attributes.get("href", "")
        self.uses += [target[1:]] if target.startswith("#") else []
        self.external += [target] if target and not target.startswith("#") else []
        self.external += (
            [tag] if tag in {"script", "link", "img", "iframe", "object", "embed", "base"} else []
        )
        self.external += [name for name in attributes if name.startswith(("on", "src"))]


def check_page(text):
    checked = Checker(text)
    assert checked.open == []
    assert checked.external == []
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)
    assert len(set(checked.ids)) == len(checked.ids)
    assert set(checked.uses) | set(re.findall(r"url\(#([^)]*)\)", text)) <= set(checked.ids)
    return " ".join(checked.words)


def failing(params, *, lr):
    raise RuntimeError("no <luck>")


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark")
    adam, sgd = get_entry("adam"), get_entry("sgd")
    ours = Entry("ours", adam.factory, 3e-2, (3e-3, 1e-2, 1.0), label="Ours & <co>", kind="learned")
    theirs = Entry("adam", adam.factory, 1e-3, (1e-3, 1e-2), label="Adam")
    wild = Entry("sgd", sgd.factory, 1e6, label="SGD")
    entries = (theirs, wild, ours, Entry("failing", failing, 1.0))
    results = run_benchmark(
        ("digits-mlp-32", "quadratic"), entries, seeds=2, steps=40, out=out, workers=0, progress=False
    )
    return results, out


def test_the_page_needs_nothing_else_and_says_what_matters(benchmark):
    results, out = benchmark
    words = check_page((out / "index.html").read_text())
    assert headline_text(results) in words
    for text in (
        "Ours & <co>",
        "digits-mlp-32",
        "quadratic",
        "none finished",
        "no <luck>",
        "fingerprint",
        "torch",
    ):
        assert text in words


def test_plots_are_png_files(benchmark):
    _, out = benchmark
    for name in ("curves-quadratic", "lr-quadratic", "curves-digits-mlp-32", "lr-digits-mlp-32"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_fits_a_terminal(benchmark):
    results, _ = benchmark
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(terminal_table(results))
    text = console.export_text()
    assert "quadratic" in text
    assert "Ours & <co>, default" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_learned_entry_leads_and_missing_figures_are_said(benchmark):
    results, _ = benchmark
    assert results.headline.optimizer == "ours"
    assert results.headline.choice == "tuned"
    assert [line.speedup is None for line in results.headlines if line.optimizer in ("sgd", "failing")] == [
        True
    ] * 2
    assert {result.cell.optimizer for result in results.failures()} == {"failing"}


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Interval(2.0, 1.5, 3.0), "The best Adam needs 2.00× the steps of Ours & <co>"),
        (Interval(0.5, 0.4, 0.6), "Ours & <co> needs 2.00× the steps of the best Adam"),
        (Interval(1.1, 0.9, 1.2), "cannot be told apart: 1.10× [0.90–1.20]"),
        (Interval(1.1), "The best Adam needs 1.10×"),
        (None, "no speed-up"),
    ],
)
def test_the_headline_says_who_is_faster(benchmark, interval, words):
    from dataclasses import replace

    results, _ = benchmark
    assert words in headline_text(replace(results, headlines=(replace(results.headline, speedup=interval),)))


def test_write_page_escapes_and_nests(tmp_path):
    figure, axes = new_figure("a < b & c")
    axes.plot([1, 2], [1, 10], color=SERIES[0])
    blocks = [
        page.paragraph("1 < 2 & 3"),
        page.code("learned-opt bench --tasks '<name>'"),
        page.tiles([("1.3×", "<speed-up>")]),
        page.gallery([(inline_svg(figure), "cap & tion"), (inline_svg(figure), "again")][:1]),
        page.table(("a", "b"), [("x", "<y>"), ("x", "z")], strong=[1], wrap=True),
        page.details("more", page.paragraph("inside")),
    ]
    path = tmp_path / "page.html"
    write_page(path, "Title & <tag>", [Section("One", blocks), Section("", [])], lead="lead", footer="foot")
    words = check_page(path.read_text())
    for text in (
        "Title & <tag>",
        "1 < 2 & 3",
        "'<name>'",
        "<speed-up>",
        "cap & tion",
        "<y>",
        "a < b & c",
        "foot",
    ):
        assert text in words


def test_figures_follow_the_page_and_are_repeatable():
    def draw():
        figure, axes = new_figure("title")
        axes.plot([1, 2], [1, 10], color=SERIES[1])
        return figure

    svg = inline_svg(draw())
    assert "var(--series-1)" in svg
    assert "var(--ink)" in svg
    assert not [color for color in LIGHT.values() if color in svg]
    assert svg == inline_svg(draw())
    assert png(draw()) == png(draw())


def contrast(first, second):
    def luminance(color):
        parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_stand_out_on_their_ground(colors):
    for ground in (colors["surface"], colors["ground"]):
        assert contrast(colors["ink"], ground) > 10
        assert contrast(colors["muted"], ground) > 4.5
        assert all(contrast(color, ground) > 3 for name, color in colors.items() if name.startswith("series"))


def test_thinning_keeps_short_curves_and_averages_long_ones():
    assert thinned(np.array([3.0, 1.0], np.float32)) == ([1, 2], [3.0, 1.0])
    steps, losses = thinned(np.arange(1000, dtype=np.float32), points=10)
    assert steps == list(range(100, 1001, 100))
    assert losses == [49.5 + 100 * k for k in range(10)]
    assert thinned(np.zeros(0, np.float32)) == ([], [])


def test_numbers_that_json_lacks_become_null():
    assert finite({"a": [1.0, float("nan")], "b": (float("inf"), 2)}) == {"a": [1.0, None], "b": [None, 2]}


def test_intervals_read_well():
    assert interval_text(Interval(1.234, 1.0, 2.0), "{:.2f}", "×") == "1.23× [1.00–2.00]"
    assert interval_text(Interval(1.234), "{:.1f}") == "1.2"


def test_every_baseline_has_a_colour():
    assert len(BASELINES) <= len(SERIES)
