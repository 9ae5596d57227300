"""Pages of sections with cards, tables and images, in the looks of the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mtp.atomic_file import write_atomically
from stages.report.plots import Image
from stages.report.tables import Table


@dataclass(frozen=True)
class Card:
    """One number that a reader looks for first."""

    term: str
    value: str
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Part:
    """A section of a page. kind: "wide" or "square" images."""

    name: str
    lead: str = ""
    cards: Sequence[Card] = ()
    tables: Sequence[Table] = ()
    images: Sequence[Image] = ()
    kind: str = "wide"
    notes: Sequence[str] = field(default=())

    @property
    def id(self) -> str:
        """The anchor."""
        return self.name.lower().replace(" ", "-")


def templates() -> Environment:
    """The templates of all pages."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(
    path: Path,
    title: str,
    parts: Sequence[Part],
    facts: Sequence[tuple[str, str]] = (),
    state: str = "Finished",
    finished: bool = True,
) -> Path:
    """Write a page that opens offline. facts: names and values under the title."""
    content = {
        "title": title,
        "folder": path.resolve().parent.name,
        "facts": facts,
        "state": {"kind": "finished" if finished else "unfinished", "text": state},
        "sections": [(part.id, part.name) for part in parts],
        "parts": parts,
    }
    page = templates().get_template("sections.html").render(content)
    write_atomically(path, page.encode())
    return path
