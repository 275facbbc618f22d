"""A C++ source compiled for this machine at first use, and kept for the next process."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from ctypes import CDLL
from pathlib import Path

SOURCES = Path(__file__).parent
MAIN = "step.cpp"
COMPILERS = ("g++", "clang++", "c++")
CACHE_VARIABLE = "LEARNED_OPT_CACHE"
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-w")
"""Neither ``-ffast-math``, whose start-up code makes the whole process flush denormals, nor its assumption
that no value is infinite or not a number: reciprocals and sums are written out the fast way instead."""
SCHEDULED = ("-fschedule-insns", "-fsched-pressure")
"""Of GCC: the loop of 300 instructions is put in order before registers are given out, too."""
VARIANTS = (
    (*SCHEDULED, "-march=native", "-fopenmp"),
    (*SCHEDULED, "-mcpu=native", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-march=native",),
    ("-mcpu=native",),
    ("-fopenmp",),
    (),
)
"""What a compiler may not know; the first that works is taken. Without OpenMP one thread does it all."""
CACHE_ADVICE = f"name a folder that can be written to by the environment variable {CACHE_VARIABLE}"
ADVICE = "install a C++ compiler (Debian: apt install g++), or set the environment variable CXX to one"


class BuildError(RuntimeError):
    """The source could not be compiled or loaded; it says why."""


def load(defines: Mapping[str, int]) -> CDLL:
    """The compiled source, from the cache if it is there.

    Processes may do this at the same time: each compiles beside the place and then puts its file there whole.

    Args:
        defines: Names and values of the preprocessor.

    Raises:
        BuildError: If there is no compiler, or it fails, or nothing can be written.
    """
    try:
        return _load(defines)
    except OSError as error:
        raise BuildError(f"the step cannot be compiled and kept: {error}; {CACHE_ADVICE}") from error


def _load(defines: Mapping[str, int]) -> CDLL:
    compiler = find_compiler()
    path = _folder() / f"native-{_key(compiler, defines)}.so"
    if path.exists():
        try:
            return CDLL(str(path))
        except OSError:  # cut short or of another machine: made again
            path.unlink(missing_ok=True)
    _compile(compiler, defines, path)
    try:
        return CDLL(str(path))
    except OSError as error:
        raise BuildError(f"what {compiler[0]} compiled cannot be loaded: {error}") from error


def find_compiler() -> list[str]:
    """The command of the C++ compiler: that of the environment variable CXX, else the first known one.

    Raises:
        BuildError: If there is none, or CXX is no command.
    """
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise BuildError(f"CXX is {os.environ['CXX']!r}, which is no command ({error}); {ADVICE}") from error
    for name in [chosen[0]] if chosen else COMPILERS:
        if found := shutil.which(name):
            return [found, *chosen[1:]]
    wanted = f"CXX={chosen[0]!r} is not there" if chosen else f"none of {', '.join(COMPILERS)} is there"
    raise BuildError(f"no C++ compiler was found: {wanted}; {ADVICE}")


def _compile(compiler: list[str], defines: Mapping[str, int], path: Path) -> None:
    options = [*FLAGS, *(f"-D{name}={value}" for name, value in defines.items())]
    complaint = ""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as folder:
        made = Path(folder) / path.name
        for variant in VARIANTS:
            command = [*compiler, *options, *variant, str(SOURCES / MAIN), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode == 0:
                made.replace(path)
                return
            complaint = complaint or done.stderr.strip()[:500]
    raise BuildError(f"{compiler[0]} failed: {complaint}; {ADVICE}")


def _folder() -> Path:
    """Where compiled files are kept: only this user may write there."""
    own = os.environ.get(CACHE_VARIABLE)
    caches = (
        Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "learned-opt"
    )
    try:
        folder = caches / "native"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # a read-only home, or none at all
        pass
    return _folder_of_process()


def _folder_of_process() -> Path:
    global _temporary
    if _temporary is None:
        _temporary = tempfile.TemporaryDirectory(prefix="learned-opt-")
    return Path(_temporary.name)


_temporary: "tempfile.TemporaryDirectory[str] | None" = None


def _key(compiler: list[str], defines: Mapping[str, int]) -> str:
    binary = Path(compiler[0]).resolve()
    about = (*compiler, str(binary), binary.stat().st_mtime_ns, *FLAGS, *VARIANTS, *sorted(defines.items()))
    digest = hashlib.sha256(repr((*about, _processor())).encode())
    for source in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")]):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:32]


def _processor() -> tuple[str, ...]:
    """What the machine's instructions are told by."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine(), platform.processor()
    told = {line for line in lines if line.partition(":")[0].strip() in ("model name", "flags", "Features")}
    return platform.machine(), *sorted(told)
