"""The report on calibration: shares of the loss before and after, and whether it worked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.report.history import History, Span
from stages.report.tables import Cell, Table, scientific, words

LIMIT = 1.5
"""After the first epoch no term should have more than this many times another one's share."""


@dataclass(frozen=True)
class Share:
    """One stacked bar: what each term contributes to the training loss."""

    label: str
    coefficients: dict[str, float]
    contributions: dict[str, float]

    @property
    def percent(self) -> dict[str, float]:
        """Of the sum of all contributions."""
        total = sum(self.contributions.values()) or 1.0
        return {term: 100 * value / total for term, value in self.contributions.items()}


@dataclass(frozen=True)
class CalibrationSection:
    """Bars, their numbers and remarks for one head."""

    target: str
    shares: list[Share]
    table: Table
    notes: list[str]


def calibration_section(table: dict[str, Any], history: History, head: str) -> CalibrationSection:
    """The section from one head's part of calibration.json and the log."""
    terms = table["terms"]
    target = {name: term["target"] for name, term in terms.items()}
    equal = len({round(value, 6) for value in target.values()}) == 1
    words = ", ".join(f"{name} {100 * value:.0f} %" for name, value in target.items())
    shares = _before_and_after(table)
    notes = [
        f"The {name} loss was below the floor of calibration, a perfect fit; the floor was used."
        for name, term in terms.items()
        if term["at_floor"]
    ]
    span = next((s for s in history.spans if s.name == "calibration"), None)
    if span is not None:
        shares += _during(history, head, span, table["loss"], list(terms))
        notes += _check(shares[2], target)
    return CalibrationSection(
        "become equal" if equal else f"become {words}", shares, _numbers(shares), notes
    )


def _before_and_after(table: dict[str, Any]) -> list[Share]:
    """The errors that calibration saw, under the old and under the new coefficients."""
    shares = []
    labels = {
        "before": f"End of {table['previous_stage']}",
        "after": "The same errors, calibrated",
    }
    for when, label in labels.items():
        coefficients = {n: t[f"coefficient_{when}"] for n, t in table["terms"].items()}
        contributions = {n: coefficients[n] * t["loss"] for n, t in table["terms"].items()}
        shares.append(Share(label, coefficients, contributions))
    return shares


def _during(history: History, head: str, span: Span, loss: str, terms: list[str]) -> list[Share]:
    """The first and the last epochs of the calibration stage."""
    coefficients = history.coefficients(head, span.start)
    if coefficients is None:
        return []
    moments = {
        "First epoch of calibration": range(span.start, span.start + 1),
        "End of calibration": history.window(span),
    }
    coefficients = {term: coefficients[term] for term in terms}
    return [
        Share(label, coefficients, history.contributions(head, rows, coefficients, loss))
        for label, rows in moments.items()
    ]


def _check(first: Share, target: dict[str, float]) -> list[str]:
    """Whether the shares after the first epoch are what was asked for."""
    ratios = {t: p / (100 * target[t]) for t, p in first.percent.items() if target[t] > 0}
    worst = max(ratios.values()) / max(min(ratios.values()), 1e-300)
    if worst <= LIMIT:
        return []
    largest, smallest = max(ratios, key=ratios.__getitem__), min(ratios, key=ratios.__getitem__)
    return [
        f"In the first epoch of calibration {largest} had {worst:.1f} times the share of "
        f"{smallest}, relative to their targets (up to {LIMIT} is normal): the errors moved fast. "
        "A smaller calibration_lr or more epochs before it keep the shares together."
    ]


def _numbers(shares: Sequence[Share]) -> Table:
    """Coefficients and contributions of every bar."""
    terms = list(shares[0].contributions)
    head = ["training loss", *(f"c {words(t)}" for t in terms)]
    head += [f"{words(t)} adds" for t in terms]
    rows = [
        [share.label]
        + [Cell(scientific(share.coefficients[t])) for t in terms]
        + [Cell(scientific(share.contributions[t])) for t in terms]
        for share in shares
    ]
    return Table.of(head, rows)
