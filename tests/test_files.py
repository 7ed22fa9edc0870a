"""Files are written whole or not at all, locked, identified, and changed only between marks."""

import errno
import os

import pytest

from conftest import ROOT
from longtail import files
from longtail.files import blob_id, hold_lock, read_text, write_atomically, write_between


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_failing_write_keeps_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "a.pth"
    write_atomically(path, b"old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":
        path.with_name("a.pth.partial").mkdir()  # the temporary file cannot be opened
    else:
        monkeypatch.setattr(files.os, call, full)
    with pytest.raises(OSError, match="a.pth"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert not path.with_name("a.pth.partial").is_file()


def test_a_system_that_cannot_sync_folders_writes_all_the_same(tmp_path, monkeypatch):
    def no_folders(*arguments):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))  # as Windows answers

    monkeypatch.setattr(files.os, "open", no_folders)
    monkeypatch.setattr(files, "WINDOWS", True)
    write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_page_changes_only_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<a>\nold\n<b>\nafter\n")
    assert write_between(page, "<a>", "<b>", "new\n")
    assert page.read_text() == "before\n<a>\nnew\n<b>\nafter\n"
    for first, last in (("<c>", "<b>"), ("<a>", "<c>")):
        assert not write_between(page, first, last, "more\n")
    assert not write_between(tmp_path / "none.md", "<a>", "<b>", "new\n")
    assert page.read_text() == "before\n<a>\nnew\n<b>\nafter\n" and not (tmp_path / "none.md").exists()


def test_blob_ids_are_gits():
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_a_lock_is_held_until_it_is_released_or_forgotten(tmp_path, started):
    path = tmp_path / "x.lock"
    code = (
        "import sys; from pathlib import Path; from longtail.files import hold_lock; "
        "hold_lock(Path(sys.argv[1])); print('held')"
    )

    def other_process() -> str:
        run = started("-c", code, path, cwd=ROOT)
        return run.stdout + run.stderr

    lock = hold_lock(path)
    with pytest.raises(BlockingIOError, match=r"x\.lock .*another process"):
        hold_lock(path)
    assert "BlockingIOError" in other_process()
    lock.release()
    assert other_process() == "held\n"
    lock = hold_lock(path)
    del lock
    lock = hold_lock(path, wait=True)
    assert lock.is_in_place() and path.read_bytes() == b""
    path.rename(tmp_path / "elsewhere")
    assert not lock.is_in_place()
    path.write_bytes(b"")  # another run's
    assert not lock.is_in_place()


def test_text_is_read_or_refused(tmp_path):
    (tmp_path / "a").write_bytes("ä\n".encode())
    assert read_text(tmp_path / "a", 3) == "ä\n"
    with pytest.raises(ValueError, match="a has 3 bytes.* 2"):
        read_text(tmp_path / "a", 2)
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="a is not text"):
        read_text(tmp_path / "a", 9)
    with pytest.raises(OSError, match="is not a regular file"):
        read_text(tmp_path, 1 << 30)
