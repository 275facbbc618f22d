"""What every command prints with."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from meta_train.commands import CommandError
from tasks.benchmark import Results

console = Console(highlight=False)

LINE_EVERY = 15.0
"""Seconds between lines of progress where there is no terminal."""


def say(text: str = "") -> None:
    """Print a line of rich markup, which the terminal may wrap but nothing cuts."""
    console.print(text, soft_wrap=True)


def shown(path: Path) -> str:
    """A path in bold, quoted as a shell needs it."""
    return f"[bold]{escape(shlex.quote(str(path)))}[/]"


def duration(seconds: float) -> str:
    """A time for people: ``48 s``, ``3:05`` or ``1:02:40``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def refuse_failures(results: Results) -> None:
    """Raise `CommandError` if a run of a benchmark failed, with the first message."""
    if failures := results.failures():
        raise CommandError(
            f"{len(failures)} of {len(results.cells)} runs failed, the first: {failures[0].error}"
        )
