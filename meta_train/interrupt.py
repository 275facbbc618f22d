"""Ctrl-C as a wish to stop at the next good moment."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class InterruptFlag:
    """While entered, the first Ctrl-C sets ``raised`` and the second interrupts at once.

    Outside the main thread, where signals cannot be handled, it does nothing.

    Args:
        on_first: Called on the first.
    """

    def __init__(self, on_first: Callable[[], None] | None = None) -> None:
        self.raised = False
        self._on_first = on_first
        self._previous: Any = None
        self._process = os.getpid()

    def __enter__(self) -> "InterruptFlag":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # forked from this one, which tells it when to end
            return
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True
        if self._on_first is not None:
            self._on_first()
