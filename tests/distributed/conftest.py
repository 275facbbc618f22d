import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 300
"""Seconds that the cases of one number of processes may take; about 30 on two idle cores."""

Lines = dict[tuple[str, str], dict]


def launch(ranks: int, folder: Path) -> Lines:
    """Run the cases of this number of processes under torchrun: a line of figures each."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    process = subprocess.Popen(
        [sys.executable, *torchrun, "-m", "tests.distributed.worker", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends its workers
        output, errors = process.communicate()
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    found = {(line["case"], line["optimizer"]): line for line in lines}
    assert found, f"torchrun ended with {process.returncode} and no figures:\n{errors[-5000:]}"
    found["errors", ""] = {"error": errors[-5000:]}
    return found


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Lines]:
    """The lines of figures that a number of processes gives; two processes leave files for the others."""
    folder = tmp_path_factory.mktemp("distributed")

    @cache
    def of(ranks: int) -> Lines:
        if ranks != 2:
            of(2)
        return launch(ranks, folder)

    return of
