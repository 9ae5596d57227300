"""Files that are complete or not there at all, also when the process is killed while writing."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a file beside it, flushed to disk and then renamed."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
