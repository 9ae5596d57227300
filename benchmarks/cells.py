"""Cells and rows of the tables."""

from __future__ import annotations

from collections.abc import Sequence


def rows_of(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *["--:"] * (len(heading) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (heading, rule, *rows))


def number(value: float | None) -> str:
    """Three significant digits without an exponent; a dash for nothing."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}".replace(",", " ")


def multiple(ratio: float | None) -> str:
    return "–" if ratio is None else f"{number(ratio)} ×"


def pairs(errors: list[tuple[float, float]]) -> list[str]:
    return [f"{number(mae)} / {number(rmse)}" for mae, rmse in errors]


def size_name(name: str) -> str:
    return name if name == "SMALL" else f"level {name}"
