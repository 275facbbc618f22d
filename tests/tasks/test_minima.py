import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from tasks import minima
from tasks.minima import CACHE_VARIABLE, fingerprint, minima_folder, minima_kept_in, remembered_minimum


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Every test begins without minima in memory, and may forget those that it finds."""

    def now():
        monkeypatch.setattr(minima, "_memory", {})

    now()
    return now


def never():
    pytest.fail("searched again")


def test_the_second_call_and_the_next_process_search_no_more(tmp_path, forget):
    folder = tmp_path / "new" / "folder"
    assert remembered_minimum("key", lambda: 1 / 3, folder=folder) == 1 / 3
    assert remembered_minimum("key", never, folder=folder) == 1 / 3
    forget()
    assert remembered_minimum("key", never, folder=folder) == 1 / 3
    assert [file.name for file in folder.iterdir()] == ["key.json"]


def test_what_is_in_memory_reaches_every_folder(tmp_path):
    remembered_minimum("key", lambda: 2.0, folder=tmp_path / "one")
    remembered_minimum("key", never, folder=tmp_path / "two")
    assert (tmp_path / "one/key.json").read_text() == (tmp_path / "two/key.json").read_text()


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"key": "key", "minimum": NaN}',
        b'{"key": "key", "minimum": "low"}',
        b'{"key": "key", "minimum": null}',
        b'{"key": "another", "minimum": 7.0}',
        b'{"minimum": 7.0}',
        b'{"key": "key", "min',
    ],
)
def test_a_damaged_entry_is_searched_for_again_with_a_notice(tmp_path, damaged):
    file = tmp_path / "key.json"
    file.write_bytes(damaged)
    with pytest.warns(RuntimeWarning, match=r"key\.json cannot be read .* searched for again"):
        assert remembered_minimum("key", lambda: 2.0, folder=tmp_path) == 2.0
    assert json.loads(file.read_text()) == {"key": "key", "minimum": 2.0}
    assert remembered_minimum("key", never, folder=tmp_path) == 2.0


def test_a_folder_that_cannot_be_used_costs_a_notice(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(RuntimeWarning) as notices:
        assert remembered_minimum("key", lambda: 2.0, folder=tmp_path / "file") == 2.0
    assert any("cannot be kept" in str(notice.message) for notice in notices)
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_failed_search_leaves_nothing(tmp_path):
    def failing():
        raise ArithmeticError("no minimum")

    with pytest.raises(ArithmeticError, match="no minimum"):
        remembered_minimum("key", failing, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    assert remembered_minimum("key", lambda: 2.0, folder=tmp_path) == 2.0


def test_where_minima_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
    assert minima_folder() == tmp_path / "own/minima"
    with minima_kept_in(tmp_path / "outer"):
        with minima_kept_in(tmp_path / "inner"):
            assert minima_folder() == tmp_path / "inner"
        assert minima_folder() == tmp_path / "outer"
        remembered_minimum("key", lambda: 2.0)
    assert (tmp_path / "outer/key.json").exists()
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert minima_folder() == tmp_path / "caches/learned-opt/minima"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert minima_folder() == tmp_path / ".cache/learned-opt/minima"
    assert Path(minima.__file__).parent not in minima_folder().parents


def test_a_fingerprint_tells_searches_values_shapes_and_types_apart():
    zeros = torch.zeros(4)
    variants = [
        fingerprint("one", [zeros]),
        fingerprint("two", [zeros]),
        fingerprint("one", [zeros + 1e-7]),
        fingerprint("one", [zeros.view(2, 2)]),
        fingerprint("one", [zeros.int()]),
        fingerprint("one", [zeros, zeros]),
        fingerprint("one", [zeros[:0]]),
    ]
    assert len(set(variants)) == len(variants)
    assert fingerprint("one", [torch.arange(6.0).view(2, 3).T]) == fingerprint(
        "one", [torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])]
    )


def use(folder, value, meeting, outcomes):
    def search():
        meeting.wait(60)
        return value

    outcomes.put(remembered_minimum("shared", search, folder=folder))


def test_two_processes_that_search_at_once_leave_one_whole_entry(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    meeting, outcomes = spawn.Barrier(2), spawn.SimpleQueue()
    both = [spawn.Process(target=use, args=(tmp_path, value, meeting, outcomes)) for value in (1.0, 2.0)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert sorted([outcomes.get(), outcomes.get()]) == [1.0, 2.0]
    assert [file.name for file in tmp_path.iterdir()] == ["shared.json"], "no temporary file is left"
    assert remembered_minimum("shared", never, folder=tmp_path) in (1.0, 2.0)
