"""The report's account of the data: what was read, dropped, split and labelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mtp.terms import TERMS
from stages.evaluate import three_digits
from stages.report.tables import Cell, Table, words

REASONS = {
    "unlabelled": "no label",
    "nonfinite": "not finite",
    "duplicate": "duplicate",
    "energy": "max_energy",
    "forces": "max_forces",
}


@dataclass(frozen=True)
class DataSection:
    """Tables of one head's data."""

    facts: list[tuple[str, str]]
    files: Table
    coverage: Table
    worst: Table | None
    notes: list[str]


def data_section(scan: dict[str, Any]) -> DataSection:
    """The section from one head's scan (scan.json)."""
    return DataSection(
        _facts(scan), _files(scan), _coverage(scan), _worst(scan), list(scan["warnings"])
    )


def _facts(scan: dict[str, Any]) -> list[tuple[str, str]]:
    elements = ", ".join(f"{symbol} {count:,}" for symbol, count in scan["elements"].items())
    facts = [
        ("kept for training and validation", f"{scan['frames']:,} frames, {scan['atoms']:,} atoms"),
        ("atoms of each element", elements),
    ]
    if scan.get("min_dist") is not None:
        facts.append(("shortest distance", f"{scan['min_dist']:.3f} Å in {scan['min_dist_frame']}"))
    shifts = scan.get("shifts")
    if shifts:
        named = (f"{symbol} {e0:.4f}" for symbol, e0 in shifts["values"].items())
        values = ", ".join(named).replace("-", "−")
        unit = shifts.get("unit", "eV")
        rest = "" if shifts["rms"] is None else f"; rms of what they leave {_rms(shifts, unit)}"
        if shifts["mode"] != "none":
            name = "species shifts e0 of the data" if unit == "eV" else "isotropic species shifts"
            facts.append((name, f"{values} {unit} ({shifts['mode']}{rest})"))
    return facts


def _rms(shifts: dict[str, Any], unit: str) -> str:
    if unit == "eV":
        return f"{three_digits(shifts['rms'])} meV/atom"
    return f"{three_digits(1e-3 * shifts['rms'])} {unit}/atom"


def _files(scan: dict[str, Any]) -> Table:
    """Frames read, dropped by each filter and used, per file."""
    every = [*scan["files"], *scan.get("test_files", ())]
    filters = [name for name in REASONS if any(row.get(name) for row in every)]
    head = ["file", "read", *(f"dropped: {REASONS[name]}" for name in filters)]
    rows = []
    for row in every:
        lost = [_lost(row.get(name, 0), row["read"]) for name in filters]
        used = [row["train"], row["valid"], None] if "train" in row else [None, None, row["kept"]]
        rows.append([row["file"], row["read"], *lost, *used])
    note = "" if filters else "No frame was dropped."
    return Table.of([*head, "train", "valid", "test"], rows, note=note)


def _lost(count: int, read: int) -> Cell:
    return Cell(f"{count:,}", tone="bad" if count > 0.05 * read else "")


def _coverage(scan: dict[str, Any], most: int = 40) -> Table:
    """How many frames carry each label, per file and config_type."""
    every = [*scan["coverage"], *scan.get("test_coverage", ())]
    typed = any(row["config_type"] for row in every)
    terms = [term for term in TERMS if any(term in row for row in every)]
    rows = [
        [row["file"]]
        + ([row["config_type"] or "(none)"] if typed else [])
        + [row["frames"], row["atoms"]]
        + [_covered(row.get(term, 0), row["frames"]) for term in terms]
        + [f"{row['weight']:g}"]
        for row in every
    ]
    head = ["file", *(["config_type"] if typed else []), "frames", "atoms"]
    head += [*(f"with {words(term)}" for term in terms), "mean weight"]
    note = f"{len(rows) - most} more rows are in scan.json." if len(rows) > most else ""
    return Table.of(head, rows[:most], text_columns=2 if typed else 1, note=note)


def _covered(count: int, frames: int) -> Cell:
    return Cell(f"{count:,}", tone="" if count == frames else "bad" if count else "none")


def _worst(scan: dict[str, Any]) -> Table | None:
    """Kept frames with the largest labels; tensors have none."""
    if not scan.get("worst"):
        return None
    rows = [
        [row["frame"], row["config_type"] or None, row["max_force"], _energy(row)]
        for row in scan["worst"]
    ]
    head = ["frame", "config_type", "largest force, eV/Å", "energy per atom, eV"]
    return Table.of(head, rows, text_columns=2)


def _energy(row: dict[str, Any]) -> str | None:
    value = row["energy_per_atom"]
    return None if value is None else f"{value:.3f}".replace("-", "−")


def shortened(value: Any, names: dict[str, str]) -> Any:
    """The same plain data with every path in its texts replaced by its short name."""
    if isinstance(value, dict):
        return {key: shortened(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [shortened(one, names) for one in value]
    if isinstance(value, str):
        for path in sorted(names, key=len, reverse=True):
            if "/" in path:
                value = value.replace(path, names[path])
    return value
