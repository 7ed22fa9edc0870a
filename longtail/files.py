"""Write a file whole, lock it, check it before it is read, identify it, replace a part of a page. Needs no torch."""

import contextlib
import hashlib
import math
import os
import stat
from pathlib import Path

from filelock import FileLock, Timeout

WINDOWS = os.name == "nt"


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Put `content` at `path` so that a crash at any instant leaves the old file or the new one.

    Raise OSError if it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written: {error.strerror or error}; what was there before is untouched"
        ) from error


def check_place(flag: str, path: Path | None) -> None:
    """Raise OSError if the file that a flag names could not be written there, before hours go into its content."""
    if path and path.is_dir():
        raise IsADirectoryError(f"{flag} {path} is a folder; name a file")
    if path and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{flag} {path}: there is no folder {path.parent}")


def sync_folder(folder: Path) -> None:
    """Make a renamed file's new name survive a power cut, on systems that can (Windows opens no folder)."""
    if WINDOWS:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_between(page: Path, first: str, last: str, text: str) -> bool:
    """Put `text` between two marks of a page.

    Return False, and write nothing, if the page or one of its marks is missing.
    """
    before, found, rest = (page.read_text(encoding="utf-8") if page.exists() else "").partition(first)
    _, end, after = rest.partition(last)
    if found and end:
        write_atomically(page, f"{before}{first}\n{text}{last}{after}".encode())
    return bool(found and end)


def check_file(path: Path, most: float = math.inf) -> None:
    """Raise OSError unless `path` is a regular file, and ValueError if it has more than `most` bytes."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is not a regular file")
    if status.st_size > most:
        raise ValueError(f"{path} has {status.st_size:,} bytes; no such file needs more than {most:,}")


def blob_id(content: bytes) -> str:
    """Return what `git hash-object` prints for a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HeldLock:
    """A lock on a file. It ends with `release`, or with this object."""

    def __init__(self, path: Path, lock: FileLock):
        self.path, self._lock = path, lock
        self._identity = file_identity(path)  # None on a file system without locks

    def is_in_place(self) -> bool:
        """Return whether the locked file is still the one at its path: no folder was renamed, deleted or replaced."""
        return file_identity(self.path) == self._identity

    def release(self) -> None:
        self._lock.release()


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of the file at a path, None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def hold_lock(path: Path, wait: bool = False) -> HeldLock:
    """Lock `path`, an empty file of its own beside what it guards, and return the lock.

    If another process holds the lock, wait for it if `wait`, else raise BlockingIOError. The file is never removed: a
    process that removes it cannot know whether another one waits for it. On a file system without locks, go on without
    a lock.
    """
    lock = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"{path} is locked by another process") from None
    except OSError:
        pass
    return HeldLock(path, lock)


def expand_home(path: str | Path) -> Path:
    """Return the path with `~` as the home directory. Raise ValueError if a user has none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no such home directory") from None


def read_text(path: Path, most: float = math.inf) -> str:
    """Return the content of a text file in UTF-8.

    Raise OSError or ValueError as `check_file` does, or if it is not text.
    """
    check_file(path, most)
    try:
        return path.read_text(encoding="utf-8-sig")  # an editor of Windows may begin it with a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8, in which it must be saved: {error}") from None
