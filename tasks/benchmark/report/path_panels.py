"""Paths of optimizers over the contours of a function of two variables: a small map for each optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

from tasks.base import Task
from tasks.benchmark.report.drawing import Scale, line, path_of, strokes
from tasks.benchmark.report.looks import looks_of
from tasks.benchmark.report.palette import css_color
from tasks.benchmark.results import Results
from tasks.benchmark.running.cell import CellResult
from tasks.catalogue import TASKS, get_task
from tasks.functions import surface

Path = NDArray[np.float32]
_Rings = tuple[list[NDArray[np.float64]], list[NDArray[np.uint32]]]  # corners, and where each ring begins
INK = 'style="fill:var(--ink)"'  # inside, since rules of a page do not reach what is drawn again
SEEDS = 3
SIDE = 200.0  # pixels
GRID, LEVELS, SHADE = 72, 7, 0.075  # points on a side; contours, and how much darker each makes what is above
EXCURSION = 2.0  # how far beyond the nearest of the paths the map goes for the farthest
STEPS = 400  # most points of a path that are drawn


@dataclass(frozen=True)
class _Map:
    """The square that is drawn, and its contours as SVG."""

    x: Scale
    y: Scale
    contours: str


def has_paths(results: Results, task: str) -> bool:
    """Whether the paths of a task were recorded and its function can be drawn again."""
    return any(run.cell.task == task and len(run.path) for run in results.cells)


def path_panels(results: Results, task: str) -> dict[int, list[tuple[str, str, str]]]:
    """The path of each optimizer's best setting over the contours, for a few seeds.

    Each seed draws a function and a start, the same for all optimizers. The lowest place of the map is a
    star, the start a square, and the end of a path a dot.

    Returns:
        By seed, for every entry its label, a line of text and an inline SVG; for `page.panels`.
    """
    seeds = results.settings.seeds[:SEEDS]
    return {seed: _panels_of(results, task, seed) for seed in seeds}


def _panels_of(results: Results, task: str, seed: int) -> list[tuple[str, str, str]]:
    chosen = {entry.name: _chosen(results, task, entry.name, seed) for entry in results.settings.entries}
    paths = [run.path for run in chosen.values() if run is not None]
    if not paths:
        return []
    drawn, looks = _map(_function(results, task, seed), paths), looks_of(results.settings)
    mark = f"map-{task}-{seed}".replace("_", "-")
    panels: list[tuple[str, str, str]] = []
    for entry in results.settings.entries:
        run = chosen[entry.name]
        first = not panels
        ground = f'<g id="{mark}">{drawn.contours}</g>' if first else f'<use href="#{mark}"/>'
        look = looks[entry.name]
        path = _path(run.path, drawn, css_color(look.color)) if run else ""
        svg = f'<svg role="img" viewBox="0 0 {SIDE:g} {SIDE:g}">{ground}{path}</svg>'
        text = "no setting finished on every seed"
        if run:
            text = f"lr {run.cell.learning_rate:.2g} {run.cell.schedule}, final loss {run.final_loss:.3g}"
        panels.append((entry.label, text, svg))
    return panels


def _chosen(results: Results, task: str, optimizer: str, seed: int) -> CellResult | None:
    """The run at the tuned setting, if it recorded its path."""
    summary = results.summary(task, optimizer)
    if summary is None or summary.schedule is None or summary.learning_rate is None:
        return None
    runs = results.runs(task, optimizer, summary.schedule, summary.learning_rate)
    return next((run for run in runs if run.cell.seed == seed and len(run.path)), None)


def _function(results: Results, task: str, seed: int) -> Task | None:
    """The function that ran under a seed; None if no task of that name has this value at the start."""
    if task not in TASKS:
        return None
    function = get_task(task, seed=seed)
    runs = (run for run in results.cells if (run.cell.task, run.cell.seed) == (task, seed) and len(run.path))
    run = next(runs)
    value = float(surface(function)(torch.from_numpy(run.path[:1]))[0])
    return function if math.isclose(value, run.curve[0], rel_tol=1e-3, abs_tol=1e-3) else None


def _map(task: Task | None, paths: Sequence[Path]) -> _Map:
    """A square around the paths, but for excursions far away, with quantiles of the function."""
    start = np.asarray(paths[0][0], np.float64)
    reaches = sorted(float(np.abs(np.nan_to_num(path) - start).max()) for path in paths)
    reach = 1.15 * max(min(reaches[-1], EXCURSION * reaches[len(reaches) // 2]), 1e-3)
    x = Scale(start[0] - reach, start[0] + reach, 0, SIDE)
    y = Scale(start[1] - reach, start[1] + reach, SIDE, 0)
    return _Map(x, y, _contours(task, x, y) if task else "")


def _contours(task: Task, x: Scale, y: Scale) -> str:
    """What is above each quantile, shaded once more for each, and a star at the lowest place."""
    across, up = np.linspace(x.low, x.high, GRID), np.linspace(y.low, y.high, GRID)
    points = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    values = surface(task)(torch.from_numpy(points)).numpy().reshape(GRID, GRID)
    regions = contour_generator(x(across), y(up), values, fill_type=FillType.OuterOffset)
    top = float(values.max()) + 1
    levels = np.unique(np.quantile(values, np.linspace(0, 1, LEVELS + 2)[1:-1]))
    shaded = ""
    for level in levels:
        filled = cast(_Rings, regions.filled(float(level), top))
        rings = [
            path_of(outline[start:end], closed=True)
            for outline, offset in zip(*filled, strict=True)
            for start, end in pairwise(offset.tolist())
        ]
        shaded += f'<path d="{"".join(rings)}"/>'
    row, column = np.unravel_index(values.argmin(), values.shape)
    left, top = float(x(across[column])), float(y(up[row])) + 5
    star = f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="middle" font-size="15" {INK}>★</text>'
    style = f"fill:var(--ink);fill-opacity:{SHADE};fill-rule:evenodd;stroke:var(--ink);stroke-opacity:.1"
    return f'<g style="{style}">{shaded}</g>{star}'


def _path(path: Path, drawn: _Map, color: str) -> str:
    """The line on a halo, a square where it starts and a dot where it ends; it stays in the map."""
    finite = path[np.isfinite(path).all(axis=1)]
    kept = np.unique(np.linspace(0, len(finite) - 1, STEPS).round().astype(int))
    points = np.stack([drawn.x(finite[kept, 0]), drawn.y(finite[kept, 1])], axis=-1)
    (left, top), (right, bottom) = points[0], points[-1]
    return (
        strokes("var(--surface)", [line(points, width=3.2, opacity=0.7)])
        + strokes(color, [line(points, width=1.5)])
        + f'<rect x="{left - 3.5:.1f}" y="{top - 3.5:.1f}" width="7" height="7" '
        'style="fill:var(--ink);stroke:var(--surface)"/>'
        f'<circle cx="{right:.1f}" cy="{bottom:.1f}" r="5" style="fill:{color};stroke:var(--surface)"/>'
    )
