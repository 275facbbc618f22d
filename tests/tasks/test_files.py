import os
import stat

import pytest

from tasks.files import atomic_write_bytes, atomic_write_text, writable_folder


def test_a_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "file.txt"
    atomic_write_text(path, "a longer first version\n")
    atomic_write_text(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_follow_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        atomic_write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_previous_file_and_no_litter(tmp_path, monkeypatch, step):
    path = tmp_path / "file.txt"
    atomic_write_text(path, "before")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write_text(path, "after")
    monkeypatch.undo()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_writable_folder_creates_parents(tmp_path):
    folder = writable_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert not list(folder.iterdir())


def test_writable_folder_refuses_a_file_and_what_is_below_it(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        with pytest.raises(NotADirectoryError, match=f"cannot write to {path}") as caught:
            writable_folder(path)
        assert "\n" not in str(caught.value)


def test_writable_folder_says_why_it_cannot_write(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=r"cannot write to .*: Permission denied"):
        writable_folder(tmp_path)
