"""Paths of optimizers over a contour map, as a picture and as an animation."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray
from PIL import Image

from meta_train.gallery.descent import Descent
from tasks import Task
from tasks.benchmark.report.palette import INK, MUTED, SERIES, SURFACE
from tasks.benchmark.report.plots import new_figure
from tasks.functions import surface

GRID = 240
"""Points on a side of the map."""

LEVELS = 14
MAP, LEFT, RIGHT, TOP, BOTTOM = 4.6, 0.6, 1.1, 0.4, 1.0  # inches: side of the map, and what is around it
STARTS = 256
MARGIN = 0.08
EXCURSION = 2.0
FRAMES, FRAME_MS, LAST_MS = 60, 60, 2000
DPI, GIF_COLORS = 84, 128
PATHS = ((SERIES[1], 3.2, 11), (SERIES[0], 1.6, 7))
"""Colour, width and size of the end of each path; the second shows on top of the first."""

_MAP = LinearSegmentedColormap.from_list("depth", ("#8fa9bd", "#c9d6df", "#eef1f3", "#fbfaf8"))
_MARK: dict[str, Any] = {"linestyle": "none", "markeredgecolor": SURFACE}


@dataclass(frozen=True)
class View:
    """The square that is drawn: its centre ``(x, y)`` and half of its side."""

    centre: tuple[float, float]
    reach: float

    @property
    def limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Lowest and highest, of the first and of the second coordinate."""
        x, y = self.centre
        return (x - self.reach, x + self.reach), (y - self.reach, y + self.reach)


def choose_view(task: Task, descents: Sequence[Descent]) -> View:
    """The square that holds the starts of the task and the paths, but for excursions far away."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.stack([task.init(generator)["x"] for _ in range(STARTS)]).double()
    box = torch.stack([starts.amin(0), starts.amax(0)])
    centre, reach = box.mean(0), EXCURSION * (box[1] - box[0]).max() / 2
    visited = torch.cat([descent.points for descent in descents]).nan_to_num(0.0)
    points = torch.cat([starts, visited]).clamp(centre - reach, centre + reach)
    low, high = points.amin(0), points.amax(0)
    x, y = ((low + high) / 2).tolist()
    return View((x, y), float((high - low).max()) * (0.5 + MARGIN))


def contour_plot(task: Task, descents: Sequence[Descent], title: str) -> Figure:
    """The map of a function of two variables with whole paths.

    Args:
        task: The function.
        descents: The paths, from one start.
        title: Above the map.
    """
    picture = _Picture(task, descents, title)
    picture.show(picture.steps)
    return picture.figure


def contour_gif(task: Task, descents: Sequence[Descent], title: str) -> bytes:
    """The same map with paths that grow, as a GIF file. The map is drawn once, the paths in every frame."""
    picture = _Picture(task, descents, title, animated=True)
    picture.figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(picture.figure)
    canvas.draw()
    background = canvas.copy_from_bbox(picture.figure.bbox)
    frames = []
    for step in np.unique(np.linspace(0, picture.steps, FRAMES).round().astype(int)):
        canvas.restore_region(background)
        picture.show(int(step))
        for artist in picture.moving:
            picture.axes.draw_artist(artist)
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    return _gif(frames)


def _gif(frames: Sequence[Image.Image]) -> bytes:
    """Frames as one file of one palette, which therefore stores of each what is new in it."""
    palette = _with_paths(frames[-1]).quantize(colors=GIF_COLORS)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [FRAME_MS] * len(others) + [LAST_MS]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return buffer.getvalue()


def _with_paths(frame: Image.Image) -> Image.Image:
    """The frame above stripes of the paths' colours, thin lines as they are, so that a palette keeps them."""
    height = frame.height // len(PATHS)
    taller = Image.new("RGB", (frame.width, frame.height + height * len(PATHS)))
    taller.paste(frame)
    for row, (color, *_) in enumerate(PATHS):
        taller.paste(color, (0, frame.height + row * height, frame.width, frame.height + (row + 1) * height))
    return taller


class _Picture:
    """The map, the start and the lowest place, and what moves over it: paths, their ends and the time."""

    def __init__(
        self, task: Task, descents: Sequence[Descent], title: str, *, animated: bool = False
    ) -> None:
        self.descents = descents
        self.steps = max(len(descent.points) for descent in descents) - 1
        view = choose_view(task, descents)
        self.figure, self.axes = _new_map(title)
        star = _draw_map(self.axes, task, view)
        self.paths: list[Line2D] = []
        self.ends: list[Line2D] = []
        for descent, (color, width, size) in zip(descents, PATHS, strict=True):
            label = f"{descent.label}, lr {descent.lr:.3g}: ends at {float(descent.losses[-1]):.3g}"
            halo = [Stroke(linewidth=width + 1.5, foreground=SURFACE), Normal()]
            self.paths += self.axes.plot([], [], color=color, linewidth=width, label=label, path_effects=halo)
            self.ends += self.axes.plot([], [], "o", color=color, markersize=size, zorder=5, **_MARK)
        start = descents[0].points[0].tolist()
        square = self.axes.plot(*start, "s", color=INK, markersize=7, label="start", zorder=4, **_MARK)
        self.marks = [*square, star]
        self.axes.set(xlim=view.limits[0], ylim=view.limits[1], xlabel="x₁", ylabel="x₂")
        self.clock = self.axes.text(0.02, 0.975, "", transform=self.axes.transAxes, va="top", color=INK)
        self.clock.set_path_effects([Stroke(linewidth=3.0, foreground=SURFACE), Normal()])
        for artist in self.moving:
            artist.set_animated(animated)
        place = ((LEFT - 0.15) / (LEFT + MAP + RIGHT), 0.0)
        self.figure.legend(
            handles=[*self.marks, *self.paths],
            loc="lower left",
            bbox_to_anchor=place,
            ncols=2,
            frameon=False,
            fontsize=9.5,
            labelcolor=INK,
        )

    @property
    def moving(self) -> list[Artist]:
        """Whatever differs from step to step, and what it may not hide, from the back to the front."""
        return [*self.paths, *self.marks, *self.ends, self.clock]

    def show(self, step: int) -> None:
        """Move everything to a step."""
        self.clock.set_text(f"step {step}")
        for path, end, descent in zip(self.paths, self.ends, self.descents, strict=False):
            x, y = descent.points[: step + 1].T.numpy()
            path.set_data(x, y)
            end.set_data(x[-1:], y[-1:])


def _new_map(title: str) -> tuple[Figure, Axes]:
    """Axes of fixed size, with room for a colour bar and a legend."""
    width, height = LEFT + MAP + RIGHT, BOTTOM + MAP + TOP
    figure, axes = new_figure(title, width=width, height=height)
    figure.set_layout_engine("none")
    axes.set_position((LEFT / width, BOTTOM / height, MAP / width, MAP / height))
    axes.grid(visible=False)
    return figure, axes


def _draw_map(axes: Axes, task: Task, view: View) -> Line2D:
    """Fill the map by quantiles, so that valleys show whatever the range is; mark the lowest place."""
    x, y = (np.linspace(low, high, GRID) for low, high in view.limits)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    values: NDArray[np.float64] = surface(task)(torch.from_numpy(points)).numpy().reshape(GRID, GRID)
    levels = np.unique(np.quantile(values, np.linspace(0, 1, LEVELS + 1)))
    norm = BoundaryNorm(levels, _MAP.N)
    drawn = axes.contourf(x, y, values, levels=levels, cmap=_MAP, norm=norm)
    axes.contour(x, y, values, levels=levels, colors=MUTED, linewidths=0.35, alpha=0.7)
    row, column = np.unravel_index(values.argmin(), values.shape)
    label = f"lowest in view: {values.min():.3g}"
    (star,) = axes.plot(x[column], y[row], "*", color=INK, markersize=14, zorder=4, label=label, **_MARK)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    box = axes.get_position()
    bar_axes = figure.add_axes((box.x1 + 0.02, box.y0, 0.025, box.height))
    bar = figure.colorbar(drawn, cax=bar_axes, ticks=levels[::2])
    bar_axes.set_yticklabels([f"{level:.3g}" for level in levels[::2]], color=MUTED, fontsize=9)
    bar_axes.tick_params(length=0)
    bar.minorticks_off()
    bar.outline.set_visible(False)
    return star
