"""The subcommands, one module each, and what they share to parse options and report errors."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

T = TypeVar("T")

MARKERS = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)


class CommandError(Exception):
    """What ends a command, in one line for its user; ``status`` is the exit status."""

    status = 1


class UsageError(CommandError):
    """The arguments of a command cannot be understood."""

    status = 2


class Stopped(CommandError):  # noqa: N818
    """Ctrl-C, after which all that is worth keeping was saved; the message says how to go on."""

    status = 130


def parse(command: type[T], name: str, options: Sequence[str], *, default: T | None = None) -> T:
    """Parse the options of a subcommand.

    Args:
        command: A dataclass whose fields are the options and whose docstring is the help.
        name: The subcommand.
        options: What the user gave.
        default: Values of options that are not given.

    Raises:
        UsageError: If an option is unknown or its value cannot be read; the message is one line.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            parsed = tyro.cli(
                command, args=list(options), prog=f"learned-opt {name}", default=default, config=MARKERS
            )
    except SystemExit as exit_:
        if exit_.code:
            raise UsageError(f"{_condensed(printed.getvalue())} (see learned-opt {name} --help)") from None
        raise
    assert parsed is not None
    return parsed


def one_line(error: BaseException) -> str:
    """The message of an error as one line."""
    message = " ".join(str(error).split())
    return message or ("stopped" if isinstance(error, KeyboardInterrupt) else type(error).__name__)


def _condensed(box: str) -> str:
    """What tyro's box of an error says, without its frame and the help that follows the message."""
    lines = [line.strip("│╭╮╰╯ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    rules = [index for index, line in enumerate(lines) if index and line.startswith("─")] or [len(lines)]
    message = " ".join(lines[1 : rules[0]])
    message = re.sub(r"^Error parsing (?!-)[\w.-]+: ", "", message)
    if "Perhaps you meant:" in lines:
        closest = lines[lines.index("Perhaps you meant:") + 1].split()[0]
        message += f"; perhaps you meant {closest}"
    return message
