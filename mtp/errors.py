"""What is raised when the user's input is wrong, with the lines that say so."""

from __future__ import annotations


class InvalidInput(Exception):
    """Bad input: one line per mistake, each with where, what is allowed, what came, what to do."""

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(lines))


class DataError(InvalidInput):
    """The data cannot be used as asked; the message says where, what and what to do."""
