"""One line to the person who waits, on stderr, above a progress bar if there is one."""

from __future__ import annotations

import sys

from tqdm import tqdm


def say(message: str) -> None:
    """Print a line; stdout stays free for results."""
    tqdm.write(message, file=sys.stderr)


def warn(message: str) -> None:
    """Print a warning."""
    say(f"warning: {message}")
