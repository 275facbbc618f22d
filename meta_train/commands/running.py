"""Meta-training with live progress."""

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from learned_opt import load_checkpoint
from meta_train import loop, trainer
from meta_train.commands import CommandError
from meta_train.commands.display import LINE_EVERY, console, duration, say, shown
from meta_train.compiler import missing_for_compilation
from meta_train.config import MetaTrainConfig
from meta_train.local_group import local_group, usable_processors
from meta_train.ranks import LostProcessError, Ranks
from meta_train.rendezvous import restarts
from meta_train.state import has_state, require_free


def run_with_display(
    config: MetaTrainConfig,
    out: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> Path:
    """Meta-train with live progress; uncompiled, with a word of advice, where this machine cannot compile.

    Under ``torchrun`` this process is one of its group, and the first one shows the progress. After a restart
    the group goes on from the last checkpoint.

    Args:
        config: What to run.
        out: Folder of the run.
        resume: Continue the run there.
        workers: Processes on this machine; by default one for each processor, at most one for each unit of
            work. ``torchrun`` decides it itself.
        threads: Threads of an operation in each. Those of small networks gain nothing from more than one, and
            lose much where other work keeps the processors busy.
        device: Where to compute.

    Returns:
        The folder.

    Raises:
        CommandError: If the run diverged, or lost a process.
        Exception: As `meta_train.loop.meta_train`.
    """
    try:
        with Ranks.joined() as ranks:
            return _run(config, out, ranks, resume=resume, workers=workers, threads=threads, device=device)
    except (trainer.DivergedError, LostProcessError) as error:
        raise CommandError(str(error)) from error


def _run(
    config: MetaTrainConfig,
    out: Path,
    ranks: Ranks,
    *,
    resume: bool,
    workers: int | None,
    threads: int,
    device: str,
) -> Path:
    missing = missing_for_compilation() if config.compiled else None
    if missing:
        config = replace(config, compiled=False)
        if ranks.rank == 0:
            slower = "nothing can be compiled: meta-training is several times slower"
            say(f"[yellow]Without {missing} {slower}.[/]")
    if restarts():
        resume = has_state(out)
    if not resume:
        require_free(out)
    follow = partial(loop.follow, config, out, resume=resume, device=device)
    if ranks.rank > 0:
        torch.set_num_threads(threads)
        follow(ranks)
        return out
    size = 1 if "WORLD_SIZE" in os.environ else workers or min(usable_processors(), len(config.units))
    config.check_processes(size)
    with local_group(size, follow, threads=threads) as group:
        lead = ranks if ranks.size > 1 else group
        return _lead(config, out, resume=resume, ranks=lead, device=device)


def _lead(config: MetaTrainConfig, out: Path, *, resume: bool, ranks: Ranks, device: str) -> Path:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/" + str(config.outer_steps)),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        display = MetaTrainDisplay(bar, config)
        loop.meta_train(
            config,
            out,
            resume=resume,
            ranks=ranks,
            device=device,
            on_progress=display,
            on_interrupt=display.interrupted,
        )
    if config.keep == "best" and load_checkpoint(out).facts["kept_outer_step"] == 0:
        start = escape(config.start) or "Adam"
        say(f"[yellow]No validation was better than the start: the optimizer in {shown(out)} is {start}.[/]")
    return out


class MetaTrainDisplay:
    """Live progress of a meta-training run; where there is no terminal, a line every quarter of a minute.

    Args:
        bar: The live display.
        config: Of the run.
    """

    def __init__(self, bar: Progress, config: MetaTrainConfig) -> None:
        self.bar, self.config = bar, config
        waiting = "compiling, up to a minute" if config.compiled else "tuning Adam on the validation tasks"
        self.task = bar.add_task(waiting, total=None, figures="")
        self._first: tuple[float, trainer.Progress] | None = None
        self._next_line = time.monotonic() + LINE_EVERY
        if not bar.console.is_terminal:
            say(f"{waiting[0].upper()}{waiting[1:]} ...")

    def __call__(self, progress: trainer.Progress) -> None:
        """Show where the run stands."""
        now = time.monotonic()
        self._first = self._first or (now, progress)
        figures, total = self._figures(now, progress), progress.total
        self.bar.update(self.task, description=self._doing(progress.step), total=total)
        self.bar.update(self.task, completed=progress.step, figures=figures)
        if not self.bar.console.is_terminal and (progress.step == total or now > self._next_line):
            say(f"outer step {progress.step}/{total}  {figures}")
            self._next_line = now + LINE_EVERY

    def interrupted(self) -> None:
        """Say that Ctrl-C was heard."""
        say("Stopping after this step; Ctrl-C again stops at once.")

    def _doing(self, step: int) -> str:
        """What the step that comes spends its time on."""
        coming, total = step + 1, self.config.outer_steps
        validates = coming == total or coming % self.config.validation_every == 0
        return "validating   " if step < total and validates else "meta-training"

    def _figures(self, now: float, progress: trainer.Progress) -> str:
        assert self._first
        started, first = self._first
        parts = [f"meta-loss {progress.meta_loss:.3f}"]
        if progress.score is not None:
            parts.append(f"best validation {progress.score:+.3f}")
        if progress.step > first.step:
            seconds = now - started
            parts.insert(0, f"{(progress.inner_steps - first.inner_steps) / seconds:,.0f} inner steps/s")
            left = seconds * (progress.total - progress.step) / (progress.step - first.step)
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)
