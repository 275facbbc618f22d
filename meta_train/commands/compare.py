"""``learned-opt compare``: two benchmarks side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape

from meta_train.commands import parse
from meta_train.commands.display import console, say
from tasks.benchmark.compare import changes, compare
from tasks.benchmark.saved import load_results


@dataclass(frozen=True)
class CompareCommand:
    """Show the figures of two benchmarks side by side.

    Both must have run on the same tasks, steps and seeds, against the same references; the other optimizers
    may differ.

    Args:
        first: A benchmark's results.json, or the folder that holds it.
        second: Another's.
    """

    first: Annotated[Path, tyro.conf.Positional]
    second: Annotated[Path, tyro.conf.Positional]


def run(options: Sequence[str]) -> None:
    """Run the subcommand."""
    command = parse(CompareCommand, "compare", options)
    first, second = load_results(command.first), load_results(command.second)
    console.print(compare(first, second))
    for line in changes(first, second):
        say(escape(line))
