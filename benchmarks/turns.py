"""A process that does a turn whenever it is asked: several of them share what else the machine does."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any


class Process:
    """Answers each line that it reads with one line of JSON.

    Args:
        command: What to start.
        environment: Variables beside this process's own.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        pipe = subprocess.PIPE
        env = {**os.environ, **environment}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)

    def ask(self, line: str) -> Any:
        """Let it do a turn, and wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        """Its next line.

        Raises:
            RuntimeError: If it ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process ended early with status {self._process.wait()}")
        return json.loads(line)

    def stop(self) -> None:
        """Let it come to its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
