"""Live progress of a training run."""

import time
from collections.abc import Callable
from types import TracebackType

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from meta_train.commands.display import LINE_EVERY, console, duration, say
from meta_train.training.session import Epoch, Observer, Session


class TrainDisplay:
    """A bar of the steps, or where there is no terminal a line now and then, and a line an epoch.

    Args:
        session: The run.
        enabled: Whether this process prints.
    """

    def __init__(self, session: Session, *, enabled: bool) -> None:
        self.session, self.enabled = session, enabled
        self.epochs = session.config.epochs
        self._said: set[str] = set()
        self._next_line = time.monotonic() + LINE_EVERY
        columns = (
            SpinnerColumn(),
            TextColumn("epoch {task.fields[epoch]}/" + str(self.epochs)),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("steps  {task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        shows = enabled and console.is_terminal
        self.bar = Progress(*columns, console=console, disable=not shows, transient=True)
        progress = session.trainer.progress
        self.steps = self.epochs * session.train.steps
        self.task = self.bar.add_task(
            "",
            total=self.steps,
            completed=progress.step,
            epoch=progress.epoch + 1,
            loss="",
        )

    def __enter__(self) -> "TrainDisplay":
        self.bar.__enter__()
        if note := self.session.data.note:
            self.say(f"[yellow]{escape(note)}.[/]")
        if self.session.resumed is not None:
            self.say(f"Going on after step {self.session.resumed.step}.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.__exit__(kind, error, trace)

    def observer(self, stops: Callable[[], bool]) -> Observer:
        """What the session tells of itself goes here.

        Args:
            stops: Whether the run is to stop.
        """
        return Observer(stepped=self._step, ended=self._end, stops=stops)

    def say(self, text: str) -> None:
        """Print a line, in one of the processes."""
        if self.enabled:
            say(text)

    def interrupted(self) -> None:
        """Say that Ctrl-C was heard."""
        self.say("Stopping after this step; Ctrl-C again stops at once.")

    def _step(self, step: int, loss: float | None) -> None:
        self.bar.update(self.task, completed=step)
        if loss is None:
            return
        self.bar.update(self.task, loss=f"loss {loss:.3f}")
        now = time.monotonic()
        if not console.is_terminal and now > self._next_line:
            epoch = self.session.trainer.progress.epoch + 1
            self.say(f"epoch {epoch}/{self.epochs}  step {step:,}/{self.steps:,}  loss {loss:.4f}")
            self._next_line = now + LINE_EVERY

    def _end(self, epoch: Epoch) -> None:
        self.bar.update(self.task, epoch=min(epoch.epoch + 1, self.epochs))
        self.say(_line(epoch, self.epochs))
        for broken in self.session.data.broken.values():
            if (text := broken.describe()) and text not in self._said:
                self._said.add(text)
                self.say(f"[yellow]{text}; they are skipped.[/]")


def _line(epoch: Epoch, epochs: int) -> str:
    averaged = "" if epoch.ema_accuracy is None else f"  averaged {epoch.ema_accuracy:6.1%}"
    return (
        f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  training loss {epoch.train_loss:.4f}  "
        f"validation loss {epoch.validation_loss:.4f}  accuracy {epoch.validation_accuracy:6.1%}  "
        f"top-5 {epoch.validation_top5:6.1%}{averaged}  {epoch.images_per_second:,.0f} images/s  "
        f"{duration(epoch.seconds)}"
    )
