"""How far a benchmark is, and the time left."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import timedelta

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tasks.benchmark.running.jobs import GroupJob

LINE_EVERY = 60.0
"""Seconds between lines of progress where there is no terminal."""

Pair = tuple[str, str]


class Forecast:
    """Time left, from the time that jobs of the same kind took.

    The cost of a run is that of earlier ones of its task and optimizer, else of its task, else of any; by the
    step. So the forecast is right for tasks of unequal sizes once each has had a turn.

    Args:
        jobs: What is to do.
        workers: How many do it at once.
    """

    def __init__(self, jobs: Sequence[GroupJob], workers: int) -> None:
        self._workers = workers
        self._left: dict[Pair, int] = {}
        for job in jobs:
            self._left[job.pair] = self._left.get(job.pair, 0) + _steps(job)
        self._spent: dict[Pair, tuple[float, int]] = {}

    def done(self, job: GroupJob, seconds: float) -> None:
        """Take note of a job that is over.

        Args:
            job: The job.
            seconds: What it took; 0 says nothing.
        """
        self._left[job.pair] -= _steps(job)
        if seconds > 0:
            before = self._spent.get(job.pair, (0.0, 0))
            self._spent[job.pair] = before[0] + seconds, before[1] + _steps(job)

    @property
    def seconds(self) -> float:
        """Time left; infinite before anything is known."""
        if not any(self._left.values()):
            return 0.0
        if not self._spent:
            return math.inf
        return sum(steps * self._cost(pair) for pair, steps in self._left.items() if steps) / self._workers

    @property
    def share(self) -> float:
        """Share of all that there was to do that is done, in the time that it takes."""
        if not any(self._left.values()):
            return 1.0
        left = self.seconds * self._workers
        spent = sum(seconds for seconds, _ in self._spent.values())
        return spent / (spent + left) if math.isfinite(left) and spent + left else 0.0

    def _cost(self, pair: Pair) -> float:
        """Seconds a step."""
        for kin in (
            [pair],
            [known for known in self._spent if known[0] == pair[0]],
            list(self._spent),
        ):
            known = [self._spent[one] for one in kin if one in self._spent]
            if known:
                return sum(seconds for seconds, _ in known) / sum(steps for _, steps in known)
        return math.inf


class Bar:
    """A progress bar of the runs with the time left, and then one of the timings; lines without a terminal.

    Args:
        shown: Whether to show them.
        total: Number of all runs.
        done: Number of those that were there already.
        forecast: Of the others.
        timings: Number of timings that come when all runs are done.
    """

    def __init__(self, shown: bool, *, total: int, done: int, forecast: Forecast, timings: int) -> None:
        self._forecast, self._total, self._done = forecast, total, done
        self._timings, self._timed = timings, 0
        self._next_line = time.monotonic() + LINE_EVERY
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            disable=not shown,
        )
        self._runs = self._add("benchmark", 1)
        self._timing = self._add("timing", timings, start=False, visible=False)
        self.advance(0)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar, if it is shown."""
        if not self._progress.disable:
            self._progress.console.print(text)

    def advance(self, runs: int) -> None:
        """Show that so many runs more are done."""
        self._done += runs
        seconds = self._forecast.seconds
        count = f"{self._done}/{self._total} runs"
        left = f"left {_clock(seconds)}" if 0 < seconds < math.inf else ""
        self._progress.update(self._runs, completed=self._forecast.share, count=count, left=left)
        console = self._progress.console
        if not (console.is_terminal or console.is_jupyter) and time.monotonic() > self._next_line:
            self.say(f"benchmark {count} {left}".rstrip())
            self._next_line = time.monotonic() + LINE_EVERY
        if self._done == self._total:
            self.time(0)

    def time(self, timings: int) -> None:
        """Show that so many timings more are done, and that nothing else is under way."""
        self._timed += timings
        self._progress.start_task(self._timing)
        self._progress.update(
            self._timing,
            completed=self._timed,
            count=f"{self._timed}/{self._timings} short runs",
            visible=self._timings > 0,
        )

    def _add(self, what: str, total: int, *, start: bool = True, visible: bool = True) -> TaskID:
        return self._progress.add_task(what, start, total, visible=visible, count="", left="")


def _steps(job: GroupJob) -> int:
    return len(job.cells) * job.cells[0].steps


def _clock(seconds: float) -> str:
    if seconds >= 86400:
        return f"{seconds / 86400:.1f} days"
    return str(timedelta(seconds=math.ceil(seconds)))
