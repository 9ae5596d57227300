"""Tables of the report, as plain rows of text for the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtp.terms import PREDICTED, TERMS
from stages.evaluate import Column, columns_of, three_digits
from stages.metrics import (
    MEASURES,
    atomic_term,
    by_config_type,
    by_element,
    by_file,
    worst_frames,
)
from stages.plan import WITH_RATE
from stages.plan_text import moves
from stages.predictions import Predictions
from stages.report.history import History

MOST_ROWS = 40
LOSS_WORDS = {
    "energy": "energy per atom (eV)",
    "forces": "force components (eV/Å)",
    "stress": "stress components (eV/Å³)",
    "dipole": "dipole per atom (e·Å)",
    "atomic_dipole": "dipoles of atoms (e·Å)",
    "polarizability": "polarizability per atom (Å³)",
    "atomic_polarizability": "polarizabilities of atoms (Å³)",
}


@dataclass(frozen=True)
class Cell:
    """Text of a table cell; `bar` in 0…1 draws a bar behind it; `tone` is "good", "bad" or ""."""

    text: str
    bar: float | None = None
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first `text_columns` columns are words, the others numbers."""

    head: tuple[str, ...]
    rows: list[list[Cell]]
    text_columns: int = 1
    note: str = ""

    @classmethod
    def of(cls, head: Sequence[str], rows: Sequence[Sequence[Any]], **options: Any) -> Table:
        """A table of values: numbers get three digits, None becomes a dash, Cells stay."""
        return cls(tuple(head), [[_cell(value) for value in row] for row in rows], **options)


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return Cell("–")
    if isinstance(value, (bool, str)):
        return Cell(str(value))
    text = f"{value:,}" if isinstance(value, (int, np.integer)) else three_digits(value)
    return Cell(text.replace("-", "−"))


def headline(sets: dict[str, dict[str, Any]]) -> Table:
    """MAE and RMSE of every set."""
    columns = columns_of(sets.values())
    keys = [key for column in columns for key in (column.mae, column.rmse)]
    rows = [
        [name, numbers["frames"], numbers["atoms"], *(numbers.get(key) for key in keys)]
        for name, numbers in sets.items()
    ]
    return Table.of(["set", "frames", "atoms", *_headings(columns)], rows)


def _headings(columns: Sequence[Column]) -> list[str]:
    return [f"{words(c.term)} {kind}, {c.unit}" for c in columns for kind in ("MAE", "RMSE")]


def words(term: str) -> str:
    """The name of a term as people write it."""
    return term.replace("_", " ")


def element_table(sets: dict[str, Predictions], name: str) -> Table | None:
    """Errors per element of the set `name`, the training set's beside them: `atomic_term`'s."""
    term = atomic_term(sets[name])
    if term is None:
        return None
    found = by_element(sets[name])
    column = Column.of(term)
    largest = column.mae.replace("_mae_", "_max_")
    train = by_element(sets["train"]) if "train" in sets and name != "train" else {}
    order = sorted(found, key=lambda symbol: -found[symbol][column.mae])
    longest = max(row[column.mae] for row in found.values())
    head = ["element", f"atoms ({name})", f"{words(term)} MAE, {column.unit}", "RMSE", "largest"]
    rows = [
        [
            symbol,
            found[symbol]["atoms"],
            _bar(found[symbol][column.mae], longest),
            found[symbol][column.rmse],
            found[symbol][largest],
        ]
        + ([train.get(symbol, {}).get(column.mae)] if train else [])
        for symbol in order
    ]
    return Table.of(head + (["MAE (train)"] if train else []), rows)


def group_table(sets: dict[str, Predictions], kind: str) -> Table | None:
    """Errors per "file" or per "config_type" of every set; None where there is nothing to tell."""
    split = {"file": by_file, "config_type": by_config_type}[kind]
    found = [
        (name, group or "(none)", values)
        for name, predictions in reversed(sets.items())
        for group, values in split(predictions).items()
    ]
    if not found:
        return None
    columns = columns_of(values for *_, values in found)
    columns = [c for c in columns if any(c.mae in values for *_, values in found)]
    longest = {c.mae: max(values.get(c.mae, 0) for *_, values in found) for c in columns}
    head = ["set", kind, "frames", *_headings(columns)]
    rows = []
    for name, group, values in found[:MOST_ROWS]:
        row: list[Any] = [name, group, values["frames"]]
        for c in columns:
            row += [_bar(values.get(c.mae), longest[c.mae]), values.get(c.rmse)]
        rows.append(row)
    left = len(found) - len(rows)
    note = f"{left} more rows are left out; predictions.npz has every frame." if left else ""
    return Table.of(head, rows, text_columns=2, note=note)


def worst_table(sets: dict[str, Predictions], term: str, count: int = 8) -> Table | None:
    """The frames of all sets with the largest error of one term."""
    found = [
        (name, row)
        for name, predictions in sets.items()
        for row in worst_frames(predictions, term, count)
    ]
    found = sorted(found, key=lambda item: -item[1]["error"])[:count]
    if not found:
        return None
    extra = ["atom"] if TERMS[term].rows == "atom" else []
    rows = []
    for name, row in found:
        atom = [f"{row['element']} {row['atom']}"] if extra else []
        value = _bar(row["error"], found[0][1]["error"])
        rows.append([row["where"], name, row["config_type"] or None, *atom, row["atoms"], value])
    head = ["frame", "set", "config_type", *extra, "atoms", f"error, {MEASURES[term].unit}"]
    return Table.of(head, rows, text_columns=3 + len(extra))


def plan_table(plan: dict[str, Any], history: History) -> Table:
    """One row per stage (and task): what it does, or did where the log has it."""
    several = len(plan["data"]) > 1
    kinds = {head["name"]: head["kind"] for head in plan["model"]["heads"]}
    terms = PREDICTED[next(iter(kinds.values()), "energy")]
    ran = {span.name: span for span in history.spans}
    rows = []
    for stage in plan["stages"]:
        for head, task in stage["tasks"].items():
            coefficients = task["coefficients"]
            if stage["name"] in ran:  # the log knows which terms had no labels
                found = history.coefficients(head, ran[stage["name"]].start)
                coefficients = coefficients if found is None else found
            cells = [_coefficient(coefficients, task, term) for term in terms]
            if several:  # terms differ from task to task
                own = PREDICTED[kinds.get(head, "energy")]
                cells = [_coefficient_words(coefficients, task, own)]
            if task["weight"] == 0:
                cells = ["idle"]
            rows.append(
                [stage["name"]]
                + ([head] if several else [])
                + [_optimiser(stage, several), _loss(task)]
                + (cells if several else [])
                + [stage["epochs"], _lr(stage, task)]
                + ([] if several else cells)
            )
    head = ["stage", *(["task"] if several else []), "optimiser", "loss"]
    head += [*(["coefficients"] if several else []), "epochs", "learning rate"]
    head += [] if several else [f"c {words(term)}" for term in terms]
    return Table.of(head, rows, text_columns=5 if several else 3)


def _optimiser(stage: dict[str, Any], several: bool) -> str:
    parts = [stage["optimizer"]]
    moved = moves(stage["trainable"])
    if not several and moved != "all":
        parts.append(f"moves {moved}")
    for key, name in (("weight_decay", "decay"), ("gradient_clip", "clip"), ("ema", "EMA")):
        if stage.get(key):
            parts.append(f"{name} {stage[key]:g}")
    return " · ".join(parts)


def _loss(task: dict[str, Any]) -> str:
    parts, weighting = [task["loss"]], task["energy_weighting"]
    if weighting != "per_atom_squared":
        parts.append(f"energy {weighting}")
    if task.get("virial"):
        parts.append("virial")
    if task["loss"] == "huber" and task.get("huber_delta"):
        parts.append(", ".join(f"δ {words(t)} {d:g}" for t, d in task["huber_delta"].items()))
    return " · ".join(parts)


def _lr(stage: dict[str, Any], task: dict[str, Any]) -> Cell:
    if stage["optimizer"] not in WITH_RATE:
        return Cell("– (exact solve)" if stage["optimizer"] == "lstsq" else "– (line search)")
    schedule = stage["schedule"]
    text = {
        "none": "constant",
        "step": f"×{schedule['gamma']:g} every {schedule['step_size']}",
        "linear_warmup": f"warm-up {schedule['step_size']}, to ×{schedule['min_ratio']:g}",
    }[schedule["kind"]]
    lr = stage["lr"] if task.get("lr") is None else task["lr"]
    return Cell(f"{lr:g}, {text}")


def _coefficient(coefficients: dict[str, float] | None, task: dict[str, Any], term: str) -> Cell:
    prefactor = (task.get("prefactors") or {}).get(term)
    if prefactor is not None:
        return Cell(f"{scientific(prefactor['start'])} → {scientific(prefactor['limit'])}")
    return Cell("from the log" if coefficients is None else scientific(coefficients.get(term, 0.0)))


def _coefficient_words(
    coefficients: dict[str, float] | None, task: dict[str, Any], terms: Sequence[str]
) -> str:
    """All coefficients of a task; those that are 0 are left out."""
    if coefficients is None and not task.get("prefactors"):
        return "from the log"
    cells = {words(term): _coefficient(coefficients, task, term).text for term in terms}
    return ", ".join(f"{term} {text}" for term, text in cells.items() if text != "0") or "all 0"


def effect_table(history: History, head: str, part: str) -> Table | None:
    """Errors at the end of each stage, with the change the stage made."""
    terms = [
        t for t in history.terms(head) if np.isfinite(history.term(head, part, f"{t}_mse")).any()
    ]
    if not terms or not history.spans:
        return None
    rows: list[list[Any]] = []
    first = history.spans[0].start
    if first > 0:
        start = [_rmse(history, head, part, t, first - 1) for t in terms]
        rows.append(["before the first step", None, *start, None, None])
    for span in history.spans:
        cells = [_after(history, head, part, t, span.start - 1, span.end - 1) for t in terms]
        seconds = sum(row["seconds"] for row in history.rows[span.start : span.end])
        length = span.end - span.start
        rows.append([span.name, length, *cells, duration(seconds), duration(seconds / length)])
    head_row = [
        "after",
        "epochs",
        *(f"{words(t)}, {MEASURES[t].unit}" for t in terms),
        "time",
        "per epoch",
    ]
    return Table.of(head_row, rows)


def _rmse(history: History, head: str, part: str, term: str, row: int) -> float:
    return MEASURES[term].scale * float(np.sqrt(history.term(head, part, f"{term}_mse")[row]))


def _after(history: History, head: str, part: str, term: str, before: int, after: int) -> Cell:
    value = _rmse(history, head, part, term, after)
    old = _rmse(history, head, part, term, before) if before >= 0 else np.nan
    if not np.isfinite(old) or old == 0 or not np.isfinite(value):
        return _cell(value)
    ratio = value / old
    percent = round(100 * (ratio - 1))
    change = f"×{ratio:.0f}" if ratio >= 10 else f"{percent:+d} %" if percent else "0 %"
    tone = "good" if percent < -1 else "bad" if percent > 1 else ""
    return Cell(f"{three_digits(value)} ({change.replace('-', '−')})", tone=tone)


def duration(seconds: float) -> str:
    """Seconds in words a person reads at a glance."""
    if seconds < 120:
        return f"{three_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def scientific(value: float) -> str:
    """Three digits, with a power of ten where the number is far from one: 2.5×10⁻⁵."""
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    if not exponent:
        return mantissa
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}×10{raised}"


def _bar(value: float | None, longest: float) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(three_digits(value), bar=value / longest if longest > 0 else 0.0)
