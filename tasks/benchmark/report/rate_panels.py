"""Every learning rate that ran on a task: a small plot for each optimizer, all with the same axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.benchmark.contestants.entry import Entry
from tasks.benchmark.figures.metrics import Array, smooth
from tasks.benchmark.report.drawing import Scale, cross, line, strokes, text
from tasks.benchmark.report.looks import looks_of
from tasks.benchmark.report.palette import css_color
from tasks.benchmark.report.plots import is_wide
from tasks.benchmark.report.task_plots import Setting, highest_start, runs_by_setting
from tasks.benchmark.results import Results
from tasks.benchmark.running.cell import CellResult

POINTS = 36
LEFT, RIGHT, TOP, BOTTOM, WIDTH, HEIGHT = 42.0, 198.0, 8.0, 112.0, 204, 130  # pixels
LEAST, MOST = 0.25, 0.7  # opacities of the lowest and of the highest learning rate
SCHEDULE_DASHES: tuple[tuple[float, ...], ...] = ((), (3, 2), (1, 1.5))


def rate_panels(results: Results, task: str) -> list[tuple[str, str, str]]:
    """Mean training loss over steps at every setting, the chosen one in full strength.

    Returns:
        For every entry its label, a line of text and an inline SVG; for `page.panels`.
    """
    groups = runs_by_setting(results, task)
    means = {key: _mean_curve(runs) for key, runs in groups.items()}
    ceiling = highest_start(results, task)
    lows = [float(mean.min()) for mean in means.values() if len(mean)]
    low, high = min(lows, default=0.0), ceiling if np.isfinite(ceiling) else 1.0
    y = Scale(low, high, BOTTOM, TOP, log=is_wide(np.array([low, high])))
    x = Scale(1, max(2, results.tasks[task].steps), LEFT, RIGHT)
    looks, frame = looks_of(results.settings), _frame(x, y)
    panels = []
    for entry in results.settings.entries:
        color, drawn = css_color(looks[entry.name].color), []
        summary = results.summary(task, entry.name)
        chosen = (summary.schedule, summary.learning_rate) if summary else (None, None)
        rates = results.settings.rates(entry)
        for (name, schedule, rate), mean in means.items():
            if name != entry.name or not len(mean):
                continue
            dash = SCHEDULE_DASHES[results.settings.schedules.index(schedule) % len(SCHEDULE_DASHES)]
            share = rates.index(rate) / max(1, len(rates) - 1)
            best = (schedule, rate) == chosen
            stroke = {"width": 2.2, "opacity": 1.0} if best else _faint(share)
            points = _points(mean, x, y)
            drawn.append((best, line(points, dash=dash, **stroke)))
            if any(run.status != "finished" for run in groups[name, schedule, rate]):
                drawn.append((False, cross(*points[-1].clip((LEFT, TOP), (RIGHT, BOTTOM)))))
        body = strokes(color, (path for _, path in sorted(drawn, key=lambda item: item[0])))
        svg = f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}">{frame}<svg {_INSIDE}>{body}</svg></svg>'
        panels.append((entry.label, _caption(entry, chosen, groups), svg))
    return panels


_INSIDE = (
    f'x="{LEFT:g}" y="{TOP - 4:g}" width="{RIGHT - LEFT + 4:g}" height="{BOTTOM - TOP + 6:g}" '
    f'viewBox="{LEFT:g} {TOP - 4:g} {RIGHT - LEFT + 4:g} {BOTTOM - TOP + 6:g}"'
)


def _faint(share: float) -> dict[str, float]:
    return {"width": 0.9, "opacity": LEAST + (MOST - LEAST) * share}


def _mean_curve(runs: Sequence[CellResult]) -> Array:
    """Mean over seeds of the smoothed losses, as far as all of them go and are finite."""
    length = min(len(run.curve) for run in runs)
    if not length:
        return np.zeros(0)
    curve = smooth(np.stack([run.curve[:length] for run in runs]).astype(np.float64)).mean(0)
    finite = np.isfinite(curve)
    return np.asarray(curve if finite.all() else curve[: int(finite.argmin())])


def _points(mean: Array, x: Scale, y: Scale) -> Array:
    steps = np.unique(np.linspace(0, len(mean) - 1, POINTS).round().astype(int))
    return np.stack([x(steps + 1.0), y(mean[steps])], axis=-1)


def _short(number: float) -> str:
    """A number in at most six characters."""
    plain = number == 0 or 1e-2 <= abs(number) < 1e4
    return (f"{number:.2g}" if abs(number) < 10 else f"{number:.0f}") if plain else f"{number:.0e}"


def _frame(x: Scale, y: Scale) -> str:
    """Axes with the numbers at their ends."""
    path = f"M{LEFT:g} {TOP:g}V{BOTTOM:g}H{RIGHT:g}"
    axes = f'<path d="{path}" fill="none" style="stroke:var(--muted);opacity:.6"/>'
    return (
        axes
        + text(LEFT - 4, TOP + 5, _short(y.high), anchor="end")
        + text(LEFT - 4, BOTTOM, _short(y.low), anchor="end")
        + text(LEFT, BOTTOM + 14, "1")
        + text(RIGHT, BOTTOM + 14, f"{x.high:,.0f} steps", anchor="end")
    )


def _caption(
    entry: Entry,
    chosen: tuple[str | None, float | None],
    groups: dict[Setting, list[CellResult]],
) -> str:
    """The chosen setting, and how many settings did not finish."""
    own = [runs for (name, _, _), runs in groups.items() if name == entry.name]
    unfinished = sum(any(run.status != "finished" for run in runs) for runs in own)
    setting = f"best: {chosen[1]:.2g} {chosen[0]}" if chosen[1] is not None else "none finished"
    return f"{setting}; {unfinished} of {len(own)} unfinished" if unfinished else setting
