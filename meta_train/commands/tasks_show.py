"""What ``learned-opt tasks show`` does."""

from functools import partial
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from meta_train.commands.display import console, say, shown
from meta_train.entries import LearnedFactory, load_learned
from meta_train.gallery.contour import contour_gif, contour_plot
from meta_train.gallery.descent import tuned
from meta_train.gallery.samples import holds_images, image_grid, passages
from tasks import (
    DataSource,
    Params,
    Task,
    choose,
    family_names,
    folder_family_names,
    function_names,
    get_family,
    get_function,
    get_task,
    parametric_names,
    task_names,
)
from tasks.augment.wrapper import innermost
from tasks.autoencoder import Reconstruction
from tasks.benchmark import log_grid
from tasks.benchmark.report.plots import png
from tasks.files import atomic_write_bytes, writable_folder
from tasks.functions import surface
from tasks.module import ModuleTask
from tasks.texts import TextData

RATES = log_grid(1e-3, 1.0, 7)
TENSORS = 8
STARTS = 16


def find_task(name: str, *, dimension: int | None, seed: int) -> Task:
    """The task that a name means.

    Args:
        name: Of a task, a family, a configuration (``image_mlp@7``), or a family of many configurations, of
            which the seed picks one. A task goes before a family of its name.
        dimension: If it is given, the name must be a function's.
        seed: Draws the instance.

    Raises:
        UnknownNameError: If there is nothing of that name.
        MissingDatasetError: If the task's data are not installed.
    """
    families = {*family_names(), *folder_family_names()}
    if dimension is not None:
        return get_function(name, dimension, seed)
    if name in task_names():
        return get_task(name, seed)
    if "@" not in name:
        names = {*task_names(), *families, *parametric_names(), *function_names()}
        choose("task or family", name, dict.fromkeys(names))
    if name in parametric_names() and name not in families:
        name = f"{name}@{seed}"
    elif name in function_names() and name not in families:
        raise ValueError(f"{name} is a function of any dimension: name one, for example --dim 2")
    return innermost(get_family(name).sample(torch.Generator().manual_seed(seed)))


def show(name: str, *, dimension: int | None, optimizer: str, steps: int, seed: int, out: Path) -> None:
    """Describe a task, and draw or print what it is like.

    Args:
        name: See `find_task`, as for the dimension.
        dimension: Of a function.
        optimizer: The learned one whose path is drawn.
        steps: Length of the paths.
        seed: Draws the instance, the start and the sample.
        out: Folder for pictures.
    """
    task = find_task(name, dimension=dimension, seed=seed)
    params = task.init(torch.Generator().manual_seed(seed))
    label = name if dimension is None else f"{name}-{dimension}"
    console.print(_facts(label, task))
    console.print(_tensors(params))
    if [tuple(value.shape) for value in params.values()] == [(2,)]:
        _draw_function(task, optimizer, steps=steps, seed=seed, path=out / label)
    elif name in function_names() and dimension != 2:
        say(f"Its contour:  learned-opt tasks show {name} --dim 2")
    elif isinstance(task, ModuleTask):
        _draw_data(task, seed=seed, path=out / label)


def _facts(name: str, task: Task) -> Table:
    table = Table(title=escape(name), title_style="bold", title_justify="left", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    low, high = task.learning_rates
    table.add_row("what it is", escape(task.description))
    table.add_row("judged after", f"{task.default_steps:,} steps, by {task.metric}")
    table.add_row("learning rates", f"{low:.3g} to {high:.3g} are plausible for Adam")
    for file, digest in task.checksums.items():
        table.add_row("read", f"{escape(file)}, sha256 {digest[:16]}")
    return table


def _tensors(params: Params) -> Table:
    total = sum(value.numel() for value in params.values())
    table = Table(box=SIMPLE_HEAD, header_style="dim", pad_edge=False)
    table.add_column("parameters")
    table.add_column("shape")
    table.add_column(f"{total:,}", justify="right")
    for name, value in list(params.items())[:TENSORS]:
        table.add_row(name, " × ".join(map(str, value.shape)) or "one number", f"{value.numel():,}")
    if len(params) > TENSORS:
        rest = list(params.values())[TENSORS:]
        table.add_row(f"… {len(rest)} more", "", f"{sum(value.numel() for value in rest):,}")
    return table


def _draw_function(task: Task, optimizer: str, *, steps: int, seed: int, path: Path) -> None:
    generator = torch.Generator().manual_seed(seed)
    starts = torch.stack([task.init(generator)["x"] for _ in range(STARTS)])
    start = starts[surface(task)(starts).argmax()]
    ours = partial(LearnedFactory(load_learned(optimizer)), steps=steps)
    folder = writable_folder(path.parent)
    label = optimizer.upper() if optimizer == "flt" else Path(optimizer).resolve().name
    descents = [
        tuned(task, factory, RATES, label=name, start=start, steps=steps, seed=seed)
        for name, factory in (("Adam", torch.optim.Adam), (label, ours))
    ]
    say(
        f"Adam and {escape(label)}, {steps} steps from the highest of {STARTS} starts, each at the best of "
        f"{len(RATES)} learning rates from {RATES[0]:.3g} to {RATES[-1]:.3g}: "
        "that of the lowest mean loss over the last tenth."
    )
    picture, film = (folder / f"{path.name}.{kind}" for kind in ("png", "gif"))
    atomic_write_bytes(picture, png(contour_plot(task, descents, task.description)))
    atomic_write_bytes(film, contour_gif(task, descents, task.description))
    say(f"Picture:   {shown(picture)}")
    say(f"Animation: {shown(film)}")


def _draw_data(task: ModuleTask, *, seed: int, path: Path) -> None:
    data: DataSource = task.data.images if isinstance(task.data, Reconstruction) else task.data
    if isinstance(data, TextData):
        say(f"Passages of {data.length} tokens, a {data.unit} each:")
        for passage in passages(data, seed=seed):
            say(f"  [dim]|[/] {escape(passage.replace(chr(10), '⏎'))}")
    elif holds_images(data):
        picture = writable_folder(path.parent) / f"{path.name}.png"
        atomic_write_bytes(picture, png(image_grid(data, task.description, seed=seed)))
        say(f"Images: {shown(picture)}")
