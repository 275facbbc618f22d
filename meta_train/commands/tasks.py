"""``learned-opt tasks``: what there is to train on, and what it looks like."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from meta_train.commands import UsageError, parse
from meta_train.commands.devices import require_device
from meta_train.commands.display import console, say
from tasks import JUDGES, family_names, get_parametric, parametric_names
from tasks.base import require_seed
from tasks.cards import Card, family_cards, task_cards
from tasks.catalogue import FOLDER_FAMILIES

Action = Annotated[tyro.conf.Positional[Literal["list", "show"]], tyro.conf.arg(metavar="list|show")]

WIDTHS = (100, 120)
"""Columns where nothing tells how many there are, and most of them."""


@dataclass(frozen=True)
class TasksCommand:
    """List tasks and families, or show one of them.

    `learned-opt tasks` lists the tasks, with their sizes and whether they judge optimizers, and the families
    that optimizers are meta-trained on. `learned-opt tasks show rastrigin --dim 2` draws a function of two
    variables with the paths of Adam and of a learned optimizer, as a picture and as an animation; of other
    tasks it draws or prints a sample.

    Args:
        action: list or show.
        name: What to show: a task, a family, a configuration such as image_mlp@7, or with --dim a function.
        dim: Dimension of rastrigin, ackley, levy, rosenbrock or quadratic.
        optimizer: The learned optimizer to draw: by name, such as flt, or the folder of a saved one. On a
            function, which is a single vector, flt is Adam.
        steps: Length of the paths.
        device: Accepted as everywhere; nothing here is large enough for another than cpu.
        seed: Draws the instance, the start and the sample.
        out: Folder for the pictures.
    """

    action: Action = "list"
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""
    dim: int | None = None
    optimizer: str = "flt-rastrigin"
    steps: int = 200
    device: str = "cpu"
    seed: int = 0
    out: Path = Path("runs/tasks")

    def __post_init__(self) -> None:
        for name in ("dim", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        require_seed(self.seed)


def run(options: Sequence[str]) -> None:
    """Run the subcommand."""
    command = parse(TasksCommand, "tasks", options)
    require_device(command.device)
    if command.action == "list":
        if command.name:
            raise UsageError(f"The list takes no name; look at one: learned-opt tasks show {command.name}")
        _list()
        return
    if not command.name:
        raise UsageError("Name what to show, for example: learned-opt tasks show rastrigin --dim 2")
    from meta_train.commands.tasks_show import show  # the list needs neither plots nor optimizers

    show(
        command.name,
        dimension=command.dim,
        optimizer=command.optimizer,
        steps=command.steps,
        seed=command.seed,
        out=command.out,
    )


def _list() -> None:
    usual, most = WIDTHS
    width = min(console.width, most) if console.is_terminal else usual
    printer = Console(highlight=False, width=width)
    printer.print(_cards_table("Tasks", task_cards().values(), roles=True))
    say("[dim]judge: never meta-trained on, as it judges optimizers. train: also a family of that name.[/]\n")
    printer.print(_cards_table("Families, to meta-train on", family_cards().values()))
    printer.print(_parametric_table())
    printer.print(_folder_table())
    say("Look at one:  learned-opt tasks show rastrigin --dim 2")


def _cards_table(title: str, cards: Iterable[Card], *, roles: bool = False) -> Table:
    table = _table(title, "name", "parameters", "batch", "steps", *(["for"] if roles else []), "what it is")
    group = ""
    for card in cards:
        if card.group != group:
            group = card.group
            table.add_section()
            table.add_row(f"[bold]{group[0].upper()}{group[1:]}[/]")
        batch = f"{card.batch}" if card.batch else ""
        role = [_role(card.name)] if roles else []
        table.add_row(card.name, f"{card.parameters:,}", batch, f"{card.steps:,}", *role, _about(card))
    return table


def _role(name: str) -> str:
    if name in JUDGES:
        return "judge"
    return "train" if name in family_names() else ""


def _about(card: Card) -> str:
    about = escape(card.description.removesuffix(f", batch {card.batch}"))
    missing = card.missing
    return f"{about}\n[yellow]not installed: {escape(missing)}[/]" if missing else about


def _parametric_table() -> Table:
    table = _table("Families of many configurations: NAME@SEED is one", "name", "what it is", "sizes")
    for name in parametric_names():
        family = get_parametric(name)
        table.add_row(name, family.description, family.sizes)
    return table


def _folder_table() -> Table:
    title = "Families on photographs of yours: learned-opt meta-train imagenet-vit --data FOLDER"
    table = _table(title, "name", "what it is", "sizes")
    for name, family in FOLDER_FAMILIES.items():
        table.add_row(name, family.description, family.sizes)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", header_style="dim", box=SIMPLE_HEAD)
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    for column in columns:
        numeric = column in ("parameters", "batch", "steps")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric or column == "name")
    return table
