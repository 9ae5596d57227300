"""One line to the person who waits, on stderr, above a progress bar if there is one."""

from __future__ import annotations

import sys

from tqdm import tqdm

from stages.distributed import is_root


def say(message: str) -> None:
    """Print a line, once where several processes train; stdout stays free for results."""
    if is_root():
        tqdm.write(message, file=sys.stderr)


def warn(message: str) -> None:
    """Print a warning."""
    say(f"warning: {message}")
