"""The one exception that means: the user's input is wrong, and here is the line that says so."""

from __future__ import annotations


class InvalidInput(Exception):
    """Bad input: one line per mistake, each with where, what is allowed, what came, what to do."""

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(lines))
