from dataclasses import replace

import pytest
from rich.console import Console

from tasks.benchmark import Entry, get_entry, run_benchmark, terminal_table
from tasks.benchmark.figures.metrics import Interval
from tasks.benchmark.report.tables import HEADER, OVERVIEW_HEADER, overview_rows, relative_step_time, row
from tasks.benchmark.report.wording import headline_text, interval_text, lead_text
from tasks.benchmark.report.write import write_report
from tests.tasks.made_up import NAMES, made_up_results
from tests.tasks.pages import check_page


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
        ("digits-mlp-32", "rastrigin-2"), entries, seeds=2, steps=40, out=out, workers=0, progress=False
    )
    return results, out


@pytest.fixture(scope="module")
def made_up():
    return made_up_results()


def printed(results):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(terminal_table(results))
    return console.export_text()


def test_the_page_needs_nothing_else_and_says_what_matters(benchmark):
    results, out = benchmark
    words = check_page((out / "index.html").read_text())
    assert headline_text(results) in words
    for text in (
        "Ours & <co>",
        "digits-mlp-32",
        "none finished",
        "no <luck>",
        "fingerprint",
        "torch",
        "All learning rates on rastrigin-2",
        "rastrigin-2, seed 0",
        "Gain and cost",
        "Performance profile",
    ):
        assert text in words


def test_plots_are_png_files(benchmark):
    _, out = benchmark
    for name in ("curves-rastrigin-2", "lr-rastrigin-2", "curves-digits-mlp-32", "lr-digits-mlp-32"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_learned_entry_leads_and_missing_figures_are_said(benchmark):
    results, _ = benchmark
    assert results.headline.optimizer == "ours"
    assert results.headline.choice == "tuned"
    assert {line.speedup for line in results.headlines if line.optimizer in ("sgd", "failing")} == {None}
    assert {result.cell.optimizer for result in results.failures()} == {"failing"}


def test_the_tables_fit_a_terminal(benchmark, made_up):
    for results in (benchmark[0], made_up):
        text = printed(results)
        assert "rastrigin-2" in text
        assert "Ours & <co>," in text
        assert "P(better)" in text
        assert max(map(len, text.splitlines())) <= 80


def test_a_legend_says_what_short_titles_mean(made_up):
    text = " ".join(printed(made_up).split())
    assert text.endswith(
        "speed-up: over the best of Adam and AdamW, with 95 % intervals below; div.: runs that diverged; "
        "ms: the optimizer's own time a step; step: that relative to Adam's"
    )
    assert "lr 0.01 " in text


def test_a_suite_of_thinned_sweeps_is_said_to_be_no_result(made_up):
    smoke = replace(made_up, settings=replace(made_up.settings, suite="smoke"))
    caveat = "The suite smoke shows that everything runs; its figures are no result."
    assert caveat in lead_text(smoke)
    assert caveat in printed(smoke)
    assert "no result" not in lead_text(made_up) + printed(made_up)


def test_one_task_has_no_table_over_all(tmp_path):
    results = made_up_results(("quadratic",), seeds=1)
    assert "P(better)" not in printed(results)
    write_report(results, tmp_path)
    words = check_page((tmp_path / "index.html").read_text())
    assert "without an interval" in words
    assert "one seed, no interval" in words


def test_a_benchmark_without_a_reference_is_reported(tmp_path):
    results = made_up_results(("quadratic",), seeds=1)
    settings = replace(results.settings, references=())
    alone = replace(results, settings=settings, headlines=(), profiles=(), timings={})
    write_report(alone, tmp_path)
    assert "Optimizer benchmark" in check_page((tmp_path / "index.html").read_text())


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (
            Interval(2.0, 1.5, 3.0),
            "The best of Adam and AdamW needs 2.00× [1.50–3.00] the steps of Ours & <co>",
        ),
        (
            Interval(0.5, 0.4, 0.8),
            "Ours & <co> needs 2.00× [1.25–2.50] the steps of the best of Adam and AdamW",
        ),
        (Interval(1.1, 0.9, 1.2), "cannot be told apart: 1.10× [0.90–1.20]"),
        (Interval(1.1), "The best of Adam and AdamW needs 1.10× the steps"),
        (Interval(0.5), "Ours & <co> needs 2.00× the steps"),
        (None, "no speed-up"),
    ],
)
def test_the_headline_says_who_is_faster(made_up, interval, words):
    headline = replace(made_up.headline, speedup=interval)
    assert words in headline_text(replace(made_up, headlines=(headline,)))


def test_a_lone_reference_is_named_alone(benchmark):
    results, _ = benchmark
    headline = replace(results.headline, speedup=Interval(2.0))
    assert "The best Adam needs" in headline_text(replace(results, headlines=(headline,)))


def test_the_lead_says_how_the_headline_was_found(made_up):
    text = lead_text(made_up)
    for words in (
        "Interquartile mean over 3 tasks",
        "suite made-up",
        "3 seeds",
        "5 optimizers",
        "72 runs failed",
    ):
        assert words in text


def test_the_overview_has_a_row_for_everyone_the_fastest_first(made_up):
    rows = [
        dict(zip([c.title for c in OVERVIEW_HEADER], cells, strict=True)) for cells in overview_rows(made_up)
    ]
    names = [cells["optimizer"].text for cells in rows]
    assert sorted(names) == sorted(NAMES.values())
    assert names[0] == "Ours & <co>"
    assert names[-1] == "Broken"
    by_name = dict(zip(names, rows, strict=True))
    assert by_name["Broken"]["failed"].bad
    assert by_name["Broken"]["failed"].text == "100.0%"
    assert by_name["Adam"]["diverged"].text == "25.0%"
    assert by_name["Lion"]["is also given"].text == "losses and number of steps"
    assert by_name["Ours & <co>"]["step time"].text == "8.00×"


def test_step_times_are_relative_to_adam(made_up):
    assert relative_step_time(made_up, "lion") == pytest.approx(1.3**3)
    assert relative_step_time(made_up, "broken") is None


def test_rows_match_their_titles(made_up):
    task = made_up.tasks["quadratic"]
    for summary in made_up.summaries:
        assert len(row(made_up, task, summary)) == len(HEADER)


def test_intervals_read_well():
    assert interval_text(Interval(1.234, 1.0, 2.0), "{:.2f}", "×") == "1.23× [1.00–2.00]"
    assert interval_text(Interval(-1.2, -2.0, -1.0), "{:.0f}") == "-1 [-2 to -1]"
    assert interval_text(Interval(1.234), "{:.1f}") == "1.2"
