"""Runs that are killed by SIGKILL, wherever they are, end with the bits of one that is not."""

import os
import signal
import time
from pathlib import Path
from random import Random

import pytest

from tests.contract.killing import MICRO, finish, outcome, same, start

KILLS = 24
CHANGES_OF_A_RUN = 120
"""About as many things as a resumed run does to its files in two or three outer steps."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nobody kills, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("straight")
    assert finish(start(MICRO, folder / "first")) == 0  # starts the server too
    started = time.monotonic()
    assert finish(start(MICRO, folder / "run")) == 0
    seconds = time.monotonic() - started
    assert same(outcome(folder / "run"), outcome(folder / "first"))
    return folder / "run", seconds


def standing(out: Path) -> str:
    """Where a kill found a run."""
    names = [path.name for path in (out / "state").glob("*")]
    if any(name.endswith(".partial") for name in names):
        return "writing a checkpoint"
    return "between checkpoints" if names else "starting"


@pytest.mark.slow
def test_a_run_killed_over_and_over_ends_with_the_same_bits(straight, tmp_path) -> None:
    expected, random = outcome(straight[0]), Random(0)
    kills, runs, places = 0, 0, set()
    out = tmp_path / "0"
    while kills < KILLS or runs == 0:
        at = random.randint(1, CHANGES_OF_A_RUN) if kills % 2 and kills < KILLS else 0
        process = start(MICRO, out, lead_dies=at)
        if not at and kills < KILLS:
            process.join(random.uniform(0.0, 0.7 * straight[1]))
            process.kill()
        if finish(process) == -signal.SIGKILL:
            kills += 1
            places.add(standing(out))
        else:
            assert process.exitcode == 0
            assert same(outcome(out), expected)
            runs += 1
            out = tmp_path / str(runs)
    assert {"writing a checkpoint", "between checkpoints"} <= places


@pytest.mark.parametrize("at", [1, 2, 3, 5, 8, 13, 21])
def test_a_run_killed_while_it_starts_or_writes_its_first_checkpoint_begins_again(
    straight, tmp_path, at
) -> None:
    out = tmp_path / "run"
    assert finish(start(MICRO, out, lead_dies=at)) == -signal.SIGKILL
    assert finish(start(MICRO, out)) == 0
    assert same(outcome(out), outcome(straight[0]))
    assert len(list((out / "state").iterdir())) == 2


@pytest.mark.parametrize("at", [(40, 0), (75, 0), (0, 9), (0, 22)])
def test_a_group_that_lost_a_process_says_so_and_resumes_to_the_same_bits(straight, tmp_path, at) -> None:
    out = tmp_path / "run"
    lead_dies, follower_dies = at
    process = start(MICRO, out, size=2, lead_dies=lead_dies, follower_dies=follower_dies)
    code = finish(process)
    if lead_dies:
        assert code == -signal.SIGKILL
        assert gone(int((tmp_path / "follower-1").read_text()))
    else:
        assert code == 1
        lost = (tmp_path / "lost").read_text()
        assert lost == "another process of the run was lost; resume to go on from the last checkpoint"
    assert finish(start(MICRO, out, size=2)) == 0
    assert same(outcome(out), outcome(straight[0]))


def gone(process: int, *, seconds: float = 20.0) -> bool:
    """Whether a process of no one here ends by itself."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
