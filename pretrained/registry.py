"""The registry of installed pretrained models: name → file and provenance."""

from __future__ import annotations


def names() -> tuple[str, ...]:
    """Names of the installed models, in alphabetical order."""
    return ()
