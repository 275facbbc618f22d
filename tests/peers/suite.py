"""A peer's test suite: where it is from, which of its tests ours must pass, and why others do not run."""

import hashlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

PLUGINS = Path(__file__).parent / "plugins"
TESTS = "tests/"
"""The folder of the tests in a distribution; ids of tests are written without it."""


class UnavailableError(Exception):
    """The source distribution cannot be had, for a reason that says nothing about our class."""


@dataclass(frozen=True)
class Outcome:
    """What became of one of their tests: ``passed``, ``failure``, ``error`` or ``skipped``, and why."""

    status: str
    message: str
    built_ours: bool


@dataclass(frozen=True)
class Verdict:
    """What a suite says of ours, by the ids of its tests."""

    outcomes: Mapping[str, Outcome]
    deselected: frozenset[str]

    def counts(self) -> tuple[int, int, int]:
        """How many tests were selected, passed and deselected."""
        passed = sum(outcome.status == "passed" for outcome in self.outcomes.values())
        return len(self.outcomes), passed, len(self.deselected)

    def deselected_by(self, beginning: str) -> int:
        """How many tests did not run because their ids begin like this."""
        return sum(case.startswith(beginning) for case in self.deselected)


@dataclass(frozen=True, eq=False)
class Suite:
    """One peer's suite.

    Attributes:
        project: Its name in the package index.
        version: The release whose tests run.
        sha256: Digest of that release's source distribution.
        plugin: Module of `plugins` that puts our class before their tests.
        paths: What pytest is given of their folder of tests.
        passing: Ids of every test that runs, all of which must pass.
        deselected: Reasons by the beginning of the ids that they hold for.
    """

    project: str
    version: str
    sha256: str
    plugin: str
    paths: tuple[str, ...]
    passing: tuple[str, ...]
    deselected: Mapping[str, str]

    def run(self, cache: Path, scratch: Path) -> Verdict:
        """Fetch the suite, unpack it into ``scratch`` and let it judge our class, in a process of its own.

        Raises:
            UnavailableError: If the distribution cannot be fetched.
            ValueError: If it is another one than the pinned.
        """
        with tarfile.open(self.fetch(cache)) as archive:
            archive.extractall(scratch, filter="data")
        (root,) = scratch.iterdir()
        report, deselected = scratch / "report.xml", scratch / "deselected.txt"
        output = self._run_pytest(root, report)
        assert report.exists(), f"{self.project}'s tests did not start:\n{output[-4000:]}"
        ids = deselected.read_text().splitlines()
        return Verdict(_outcomes(report), frozenset(case.removeprefix(TESTS) for case in ids))

    def fetch(self, cache: Path) -> Path:
        """The source distribution, from ``cache`` or, by name, from the package index.

        Raises:
            UnavailableError: If pip cannot fetch it.
            ValueError: If it is another one than the pinned.
        """
        archive = cache / f"{self.project}-{self.version}.tar.gz"
        if not archive.exists():
            with TemporaryDirectory(dir=cache) as folder:
                self._download(Path(folder)).replace(archive)
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise ValueError(f"{archive} has the SHA-256 {digest}; expected {self.sha256}")
        return archive

    def _download(self, folder: Path) -> Path:
        pinned = folder / "requirement.txt"
        pinned.write_text(f"{self.project}=={self.version} --hash=sha256:{self.sha256}\n")
        command = [
            *(sys.executable, "-m", "pip", "download", "--requirement", pinned, "--dest", folder),
            *("--no-deps", "--no-binary", self.project, "--require-hashes"),
            *("--quiet", "--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "20"),
        ]
        try:
            finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"pip took too long over {self.project} {self.version}") from error
        if "DO NOT MATCH THE HASHES" in finished.stderr:
            raise ValueError(finished.stderr)
        if finished.returncode:
            reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UnavailableError(f"pip cannot fetch {self.project} {self.version}: {reason}")
        (archive,) = folder.glob("*.tar.gz")
        return archive

    def _run_pytest(self, root: Path, report: Path) -> str:
        command = [
            *(sys.executable, "-m", "pytest", "-p", self.plugin, "--quiet"),
            *(TESTS + path for path in self.paths),
            *("--rootdir", ".", "--override-ini", "addopts=", "--junitxml", report),
            *(f"--deselect={TESTS}{beginning}" for beginning in self.deselected),
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment |= {"PYTHONPATH": str(PLUGINS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environment |= {"TORCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(
            command,
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        return finished.stdout


def _outcomes(report: Path) -> dict[str, Outcome]:
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        notes = {note.get("name"): note.get("value") for note in case.iter("property")}
        flaws = [child for child in case if child.tag in ("failure", "error", "skipped")]
        name = notes.get("id") or f"{case.get('classname')}.{case.get('name')}"
        outcomes[name.removeprefix(TESTS)] = Outcome(
            status=flaws[0].tag if flaws else "passed",
            message="\n".join(flaw.text or flaw.get("message", "") for flaw in flaws),
            built_ours="built" in notes,
        )
    return outcomes
