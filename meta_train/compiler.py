"""Whether `torch.compile` can work on this machine."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def missing_for_compilation() -> str | None:
    """What `torch.compile` lacks on this machine to make code for the CPU, or None."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return f"the C++ compiler {compiler}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "the headers of Python (Python.h)"
    return None
