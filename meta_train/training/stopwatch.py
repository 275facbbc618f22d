"""Where the time of a training step goes."""

import time
from typing import Any

import torch


class Stopwatch:
    """Seconds of training, and how many of them pass in the optimizer and in waiting for images.

    On a GPU the optimizer's share is read off events, which are waited for when the time is asked for.

    Args:
        optimizer: Whose steps are timed, by its hooks.
        device: Where it computes.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.device = device
        self.optimizing = self.waiting = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._opened: Any = None
        self._last = time.perf_counter()
        optimizer.register_step_pre_hook(lambda *_: self._enter())
        optimizer.register_step_post_hook(lambda *_: self._leave())

    def start(self) -> None:
        """Begin to count."""
        self._last = time.perf_counter()

    def waited(self, since: float) -> None:
        """Add what passed since a moment of `time.perf_counter` to the waiting for images."""
        self.waiting += time.perf_counter() - since

    def read(self) -> tuple[float, float, float]:
        """Seconds of training, in the optimizer and waiting, since the last reading."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.optimizing += sum(begin.elapsed_time(end) for begin, end in self._events) / 1000.0
            self._events.clear()
        now = time.perf_counter()
        passed = (now - self._last, self.optimizing, self.waiting)
        self._last, self.optimizing, self.waiting = now, 0.0, 0.0
        return passed

    def _enter(self) -> None:
        self._opened = self._mark()

    def _leave(self) -> None:
        if self.device.type == "cuda":
            self._events.append((self._opened, self._mark()))
        else:
            self.optimizing += self._mark() - self._opened

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
