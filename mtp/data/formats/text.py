"""Text files, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import TextIO

OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def open_text(path: Path, mode: str = "r") -> TextIO:
    """The file as UTF-8 text; ``.gz``, ``.bz2`` and ``.xz`` are (de)compressed on the fly."""
    opener = OPENERS.get(path.suffix.lower(), open)
    return opener(path, mode + "t", encoding="utf-8")


def suffix_of(path: Path) -> str:
    """Suffix in lower case without that of the compression: ``a.XYZ.gz`` → ``.xyz``."""
    if path.suffix.lower() in OPENERS:
        path = path.with_suffix("")
    return path.suffix.lower()
