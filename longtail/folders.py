"""The files in a user's folder. Needs no torch."""

import os
from collections.abc import Iterator
from pathlib import Path

from longtail.signals import raise_if_stopped

# Folders of file systems, of Synology and QNAP (@eaDir, #recycle), Windows and macOS, in lower case.
SYSTEM_FOLDERS = (
    *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot"),
    *("$recycle.bin", "system volume information", "lost+found", "__macosx"),
)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is left out: a hidden one, or one that a system keeps for itself."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder, at any depth and behind links, but no hidden ones.

    Raise OSError for a folder that cannot be read.
    """

    def fail(error: OSError) -> None:
        raise OSError(f"{error.filename} cannot be read: {error.strerror}; allow that, or move the folder away")

    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        raise_if_stopped()
        real = os.path.realpath(parent)
        if real in seen:  # a link has led in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in files:
            if not is_hidden(name):
                yield Path(parent) / name
