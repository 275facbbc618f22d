"""The command line: finds the subcommand, runs it, and says in one line what went wrong."""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from meta_train.commands import CommandError, UsageError, one_line

PROGRAM = "learned-opt"
DEBUG = "LEARNED_OPT_DEBUG"
FAILED, INTERRUPTED = 1, 130

COMMANDS = {
    "quickstart": "the shipped optimizer against Adam, and a new one meta-trained, in minutes",
    "meta-train": "meta-train a new optimizer and save it as a folder",
    "bench": "benchmark optimizers, learned or not, and write a page of results",
    "compare": "two results of the benchmark side by side",
    "shootout": "memories of one size against each other: meta-train, benchmark, one page",
    "train": "train an image classifier with any optimizer by name",
    "tasks": "list what there is to train on, or look at it",
    "inspect": "show what a saved optimizer is and the temporal mask it learned",
}
"""Each is a module of `meta_train.commands` with a function ``run``, imported when asked for."""

OVERVIEW = """\
usage: {program} COMMAND [OPTIONS]

Learned optimizers for PyTorch: meta-train one, use it in place of Adam, benchmark it against Adam.

commands:
{commands}

options:
  -h, --help   show this, or with a command its options
  --version    show the version

Set {debug}=1 to see the traceback of an error.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Those of the process by default.

    Returns:
        The exit status: 0 on success, 1 after an error, 2 after one in the arguments, 130 after Ctrl-C.
    """
    name, *options = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {command:<12} {summary}" for command, summary in COMMANDS.items()]
        print(OVERVIEW.format(program=PROGRAM, commands="\n".join(lines), debug=DEBUG), end="")
        return 0
    if name == "--version":
        print(f"{PROGRAM} {version(PROGRAM)}")
        return 0
    try:
        if name not in COMMANDS:
            raise UsageError(_unknown(name))
        import_module(f"meta_train.commands.{name.replace('-', '_')}").run(options)
    except CommandError as error:
        return _complain(error, error.status)
    except KeyboardInterrupt as interrupt:
        return _complain(interrupt, INTERRUPTED)
    except (ValueError, OSError) as error:
        return _complain(error, FAILED)
    return 0


def _unknown(name: str) -> str:
    close = get_close_matches(name, COMMANDS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown command {name!r}.{hint} Choose from: {', '.join(COMMANDS)}."


def _complain(error: BaseException, status: int) -> int:
    if os.environ.get(DEBUG):
        raise error
    print(f"{PROGRAM}: {one_line(error)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
