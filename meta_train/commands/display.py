"""What a command shows while it works, on a terminal and in a log file."""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from meta_train import loop
from meta_train.commands import CommandError
from meta_train.compiler import missing_for_compilation
from meta_train.config import MetaTrainConfig

LINE_EVERY = 15.0

console = Console(highlight=False)


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


class MetaTrainDisplay:
    """Live progress of a meta-training run; where there is no terminal, a line every quarter of a minute.

    Args:
        bar: The live display.
        total: Outer steps of the run.
    """

    def __init__(self, bar: Progress, total: int) -> None:
        self.bar, self.total = bar, total
        self.shown = bar.add_task("compiling, up to a minute", total=None, figures="")
        self.last: loop.Progress | None = None
        self._first: tuple[float, loop.Progress] | None = None
        self._next_line = time.monotonic() + LINE_EVERY

    def __call__(self, progress: loop.Progress) -> None:
        """Show where the run stands."""
        now = time.monotonic()
        self._first = self._first or (now, progress)
        self.last = progress
        figures = self._figures(now, progress)
        self.bar.update(
            self.shown,
            description="meta-training",
            total=self.total,
            completed=progress.step,
            figures=figures,
        )
        last = progress.step == self.total
        if not self.bar.console.is_terminal and (last or now > self._next_line):
            self.bar.console.print(f"outer step {progress.step}/{self.total}  {figures}")
            self._next_line = now + LINE_EVERY

    def interrupted(self) -> None:
        """Say that Ctrl-C was heard."""
        self.bar.console.print("Stopping after this step; Ctrl-C again stops at once.")

    def _figures(self, now: float, progress: loop.Progress) -> str:
        assert self._first
        started, first = self._first
        parts = [f"meta-loss {progress.meta_loss:.3f}"]
        if progress.score is not None:
            parts.append(f"validation {progress.score:+.3f}")
        if progress.step > first.step:
            seconds = now - started
            parts.insert(0, f"{(progress.inner_steps - first.inner_steps) / seconds:,.0f} inner steps/s")
            left = seconds * (progress.total - progress.step) / (progress.step - first.step)
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)


@contextmanager
def meta_train_display(total: int) -> Iterator[MetaTrainDisplay]:
    """Show a meta-training run of ``total`` outer steps."""
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/" + str(total)),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield MetaTrainDisplay(bar, total)


def run_with_display(config: MetaTrainConfig, out: Path, *, resume: bool = False) -> Path:
    """Meta-train with live progress; uncompiled, with a word of advice, where this machine cannot compile.

    Raises:
        CommandError: If the run diverged.
        Exception: As `meta_train.loop.meta_train`.
    """
    missing = missing_for_compilation() if config.compiled else None
    if missing:
        say(f"[yellow]Without {missing} nothing can be compiled: meta-training is several times slower.[/]")
        config = replace(config, compiled=False)
    with meta_train_display(config.outer_steps) as display:
        try:
            return loop.meta_train(
                config, out, resume=resume, on_progress=display, on_interrupt=display.interrupted
            )
        except loop.DivergedError as error:
            raise CommandError(str(error)) from error
