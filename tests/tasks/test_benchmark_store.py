import pytest

from tasks import get_task
from tasks.benchmark.contestants.baselines import get_entry
from tasks.benchmark.running.alone import run_cell
from tasks.benchmark.running.cell import Cell, CellResult
from tasks.benchmark.running.store import cell_store, timing_store
from tasks.benchmark.running.timing import Timing

CELL = Cell("quadratic", "adam", "constant", 1e-2, seed=0, steps=3)
TIMING = Timing("quadratic", "adam", "content", 1e-5, 1e-4, 10, 2.0)


@pytest.fixture(scope="module")
def finished():
    return run_cell(get_task("quadratic", seed=0), get_entry("adam"), CELL)


def test_what_was_appended_is_found_again(tmp_path, finished):
    diverged = CellResult(Cell("a", "b", "constant", 1.0, seed=1, steps=2), "diverged")
    cell_store(tmp_path).append(finished, diverged)
    again = cell_store(tmp_path)
    assert again.get(CELL.key).curve.tobytes() == finished.curve.tobytes()
    assert again.get(diverged.cell.key).diverged
    assert again.get("unknown") is None
    assert again.unreadable == 0
    assert {path.name for path in tmp_path.iterdir()} == {"cells.jsonl"}


def test_torn_and_foreign_lines_are_counted_and_failed_runs_are_not_done(tmp_path, finished):
    path = tmp_path / "cells.jsonl"
    cell_store(tmp_path).append(finished)
    path.write_bytes(path.read_bytes() + b'[1]\n{"key": "\xff"}\n{"cell": {"task"')
    failed = CellResult(Cell("a", "b", "constant", 1.0, seed=1, steps=2), "failed", error="once")
    cell_store(tmp_path).append(failed)
    again = cell_store(tmp_path)
    assert again.unreadable == 3
    assert again.get(CELL.key) is not None
    assert again.get(failed.cell.key) is None


def test_a_record_whose_cell_was_changed_is_unreadable(tmp_path, finished):
    path = tmp_path / "cells.jsonl"
    cell_store(tmp_path).append(finished)
    path.write_text(path.read_text().replace('"learning_rate": 0.01', '"learning_rate": 0.02'))
    assert cell_store(tmp_path).unreadable == 1


def test_timings_are_kept_and_corrupt_ones_are_not(tmp_path):
    timing_store(tmp_path).append(TIMING)
    assert timing_store(tmp_path).get(TIMING.key) == TIMING
    path = tmp_path / "timings.jsonl"
    path.write_text(path.read_text().replace('"training_seconds": 0.0001', '"training_seconds": -1'))
    assert timing_store(tmp_path).get(TIMING.key) is None
    assert timing_store(tmp_path).unreadable == 1
