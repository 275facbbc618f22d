import re
from dataclasses import replace

import numpy as np
import pytest

from tasks.benchmark.contestants.baselines import BASELINES
from tasks.benchmark.report.drawing import Scale, path_of
from tasks.benchmark.report.looks import looks_of
from tasks.benchmark.report.overview_plots import cost_plot, profile_plot, speedup_plot
from tasks.benchmark.report.palette import DARK, LIGHT, REFERENCE, SERIES, css_color
from tasks.benchmark.report.path_panels import has_paths, path_panels
from tasks.benchmark.report.plots import (
    LABEL_HEIGHT,
    LineEnd,
    inline_svg,
    label_ends,
    new_figure,
    png,
    spread,
    tenths,
)
from tasks.benchmark.report.rate_panels import rate_panels
from tasks.benchmark.report.task_plots import curve_plot, sensitivity_plot
from tests.tasks.made_up import NAMES, made_up_results
from tests.tasks.simulated import simulated


@pytest.fixture(scope="module")
def results():
    return made_up_results()


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


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


def test_lines_keep_their_corners_to_a_tenth_of_a_point():
    figure, axes = new_figure()
    x, y = np.linspace(0, 1, 50), np.random.default_rng(0).random(50)
    axes.plot(x, y, color=SERIES[0])
    axes.set_axis_off()
    path = max(re.findall(r'<path d="(M[^"]*)"', inline_svg(figure)), key=len)
    start, *steps = [list(map(float, re.findall(r"-?\d*\.?\d+", part))) for part in path.split("l")]
    corners = np.cumsum([start[:2] if len(start) == 2 else start[1:], *steps], axis=0)
    (low, right), (top, bottom) = corners.min(0), corners.max(0)
    drawn = (corners - [low, right]) / [top - low, bottom - right]
    assert len(corners) == 50
    np.testing.assert_allclose(drawn[:, 0], x, atol=1e-3)
    np.testing.assert_allclose(1 - drawn[:, 1], (y - y.min()) / (y.max() - y.min()), atol=1e-3)


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (5, ".5"), (-5, "-.5"), (105, "10.5"), (-30, "-3")])
def test_numbers_are_short(number, text):
    assert tenths(number) == text


def test_names_spread_no_more_than_they_must():
    assert spread([0.1, 0.5], 0.2) == [0.1, 0.5]
    np.testing.assert_allclose(spread([0.5, 0.5], 0.2), [0.4, 0.6])
    np.testing.assert_allclose(spread([0.0, 0.0, 0.9], 0.2), [0.0, 0.2, 0.9])
    np.testing.assert_allclose(spread([1.0, 1.0], 0.2, high=1.0), [0.8, 1.0])
    assert spread([], 0.2) == []


def test_names_at_the_ends_of_lines_do_not_overlap():
    _, axes = new_figure()
    axes.set_ylim(0, 1)
    ends = [LineEnd(0.5, 0.5, "one", SERIES[0], True), LineEnd(1, 0.51, "two", SERIES[1])]
    label_ends(axes, [*ends, LineEnd(1, np.nan, "no", SERIES[2])])
    heights = [label.xyann[1] for label in axes.texts]
    assert [label.get_text() for label in axes.texts] == ["one", "two"]
    assert heights[1] - heights[0] > 0.05


def test_a_figure_grows_with_the_names_at_the_ends_of_lines():
    figure, axes = new_figure()
    before = figure.get_figheight()
    label_ends(axes, [LineEnd(1, k, f"optimizer {k}", SERIES[0]) for k in range(40)])
    assert figure.get_figheight() > 40 * LABEL_HEIGHT > before
    png(figure)  # a layout without room would warn, which is an error here


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
        assert contrast(colors["bad"], ground) > 4.5
        assert all(contrast(color, ground) > 3 for name, color in colors.items() if name.startswith("series"))


def test_colours_outside_the_palette_are_refused():
    assert css_color(SERIES[0]) == "var(--series-0)"
    with pytest.raises(ValueError, match="#123456"):
        css_color("#123456")


def test_every_baseline_has_a_colour():
    assert len(BASELINES) <= len(SERIES)


def test_each_optimizer_looks_its_own_and_learned_ones_stand_out(results):
    looks = looks_of(results.settings)
    assert len({(look.color, look.dash) for look in looks.values()}) == len(NAMES)
    assert [looks[name].color for name in ("adam", "adamw")] == [REFERENCE] * 2
    assert looks["ours"].width > looks["lion"].width
    assert looks["ours"].swatch() != looks["ours"].swatch(default=True)


def test_many_optimizers_are_told_apart_by_colour_and_dash(results):
    entry = results.settings.entry("lion")
    many = tuple(replace(entry, name=f"baseline-{k}") for k in range(24))
    settings = replace(results.settings, entries=(*results.settings.entries, *many))
    looks = looks_of(settings)
    assert len({(look.color, look.dash) for look in looks.values()}) == len(looks)


@pytest.mark.parametrize("seconds", [False, True])
def test_curves_name_every_optimizer_that_finished(results, seconds):
    shown = texts(inline_svg(curve_plot(results, "quadratic", seconds=seconds)))
    assert {"Adam", "AdamW", "Lion"} <= set(shown)
    assert sum("Ours" in text for text in shown) == 2
    assert "Broken" not in shown
    assert any("seconds" in text for text in shown) == seconds


def test_learning_rates_name_everyone_and_say_who_never_finished(results):
    shown = texts(inline_svg(sensitivity_plot(results, "quadratic")))
    assert {"Adam", "AdamW", "Lion", "Broken (none finished)"} <= set(shown)


def test_who_ends_above_the_start_is_not_said_to_have_finished_nowhere():
    def curve(cell):
        return np.full(cell.steps, 3.0 if cell.optimizer == "ours" else 2.0) + np.arange(cell.steps) / 100

    shown = texts(inline_svg(sensitivity_plot(simulated(curve=curve), "one")))
    assert "ours" in shown
    assert "ours (none finished)" not in shown


def test_a_learning_rate_alone_stands_in_the_middle():
    results = simulated(rates=(5e-3,), curve=lambda cell: None)
    figure = sensitivity_plot(results, "one")
    assert figure.axes[0].get_xlim() == pytest.approx((5e-3 / 3, 5e-3 * 3))
    settings = replace(
        results.settings, with_defaults=False, sweeps=dict.fromkeys(results.settings.sweeps, (0.1,))
    )
    cells = tuple(replace(run, cell=replace(run.cell, learning_rate=0.1)) for run in results.cells)
    png(sensitivity_plot(replace(results, settings=settings, cells=cells), "one"))


def test_plots_without_a_finished_run_say_so(results):
    broken = tuple(
        replace(run, status="failed", curve=run.curve[:0], final_loss=np.inf) for run in results.cells
    )
    summaries = tuple(
        replace(one, schedule=None, learning_rate=None, final_loss=None) for one in results.summaries
    )
    nothing = replace(results, cells=broken, summaries=summaries)
    assert "no run finished" in texts(inline_svg(curve_plot(nothing, "quadratic")))
    assert "none finished" in rate_panels(nothing, "quadratic")[0][1]
    assert {f"{label} (none finished)" for label in ("Adam", "Lion")} <= set(
        texts(inline_svg(sensitivity_plot(nothing, "quadratic")))
    )


def test_speedups_have_a_row_for_all_tasks_and_a_dot_each(results):
    shown = texts(inline_svg(speedup_plot(results)))
    assert {"all tasks", *results.tasks} <= set(shown)
    assert "times as fast as the references" in shown
    assert "Speed-up by the clock" in texts(inline_svg(speedup_plot(results, clock=True)))


def test_profiles_and_costs_name_the_optimizers(results):
    assert {"Adam", "Lion"} <= set(texts(inline_svg(profile_plot(results))))
    shown = texts(inline_svg(cost_plot(results)))
    assert "Lion" in shown
    assert "Broken" not in shown


def test_every_learning_rate_is_a_line(results):
    panels = {title: (text, svg) for title, text, svg in rate_panels(results, "quadratic")}
    assert list(panels) == list(NAMES.values())
    settings = len(results.settings.rates(results.settings.entry("adam"))) * len(results.settings.schedules)
    text, svg = panels["Adam"]
    crosses = len(results.settings.schedules)  # the highest rate diverged
    assert svg.count("<path") == 1 + settings + crosses
    assert text == "best: 0.01 warmup-cosine; 2 of 8 unfinished"
    assert panels["Broken"][0] == "none finished; 8 of 8 unfinished"


def test_paths_start_together_on_one_map(results):
    assert has_paths(results, "rastrigin-2")
    assert not has_paths(results, "quadratic")
    panels = path_panels(results, "rastrigin-2")
    assert list(panels) == [0, 1, 2]
    svgs = [svg for _, _, svg in panels[0]]
    starts = {tuple(re.findall(r'<rect x="([^"]*)" y="([^"]*)"', svg)) for svg in svgs[:-1]}
    assert len(starts) == 1
    assert [svg.count("★") for svg in svgs] == [1, 0, 0, 0, 0]
    assert sum("<use href" in svg for svg in svgs) == 4
    assert panels[0][-1][1] == "no setting finished on every seed"


def test_paths_of_a_function_that_is_not_at_hand_have_no_contours(results):
    other = tuple(replace(run, curve=run.curve + 1) for run in results.cells)
    panels = path_panels(replace(results, cells=other), "rastrigin-2")
    assert not any("★" in svg for _, _, svg in panels[0])
    assert "<circle" in panels[0][0][2]


def test_scales_keep_what_is_outside_near():
    linear, log = Scale(0, 10, 0, 100), Scale(1, 100, 100, 0, log=True)
    assert linear(np.array([0.0, 5.0, 1e9])).tolist() == [0, 50, 200]
    assert log(np.array([1.0, 10.0, 0.0])).tolist() == [100, 50, 200]


def test_paths_leave_out_what_repeats():
    points = np.array([[1.0, 2.0], [1.01, 2.0], [1.5, 1.0]])
    assert path_of(points) == "M1 2l.5-1"
    assert path_of(points[:0]) == ""
    assert path_of(points, closed=True).endswith("z")
