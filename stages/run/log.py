"""The training log: one JSON object per epoch, each epoch once whatever happens to the process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mtp.errors import InvalidInput


class Log:
    """An open log.jsonl that is only ever appended to.

    length: bytes of the log that belong to the run so far; what a killed process wrote after its
    last checkpoint is cut off.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        self.path = path
        size = path.stat().st_size if path.exists() else 0
        if size < length:
            raise InvalidInput(
                f"{path}: {size} bytes, but the checkpoint was made after {length}; "
                "restore the log or start again in a new directory"
            )
        self._file = open(path, "ab")  # noqa: SIM115 - closed by `close`
        self._file.truncate(length)

    @property
    def length(self) -> int:
        """Bytes written."""
        return self._file.tell()

    def append(self, line: dict[str, Any]) -> None:
        """Add one line; a reader sees it at once."""
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Make sure the log survives a crash of the machine."""
        os.fsync(self._file.fileno())

    def rows(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return [json.loads(line) for line in self.path.read_bytes()[: self.length].splitlines()]

    def close(self) -> None:
        self._file.close()
