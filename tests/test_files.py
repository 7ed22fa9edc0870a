"""Files are written whole or not at all, locked, identified, and changed only between marks."""

import errno
import os

import pytest

from longtail import files
from longtail.files import write_atomically


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_failing_write_keeps_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "a.pth"
    write_atomically(path, b"old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":
        path.with_name("a.pth.partial").mkdir()          # the temporary file cannot be opened
    else:
        monkeypatch.setattr(files.os, call, full)
    with pytest.raises(OSError, match="a.pth could not be written"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert not path.with_name("a.pth.partial").is_file()
