"""Tables of benchmarks/results/tasks.json and finetuning.json: what tasks and models are worth.

Cells are words, numbers, or lists of numbers that stand in one cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Row = dict[str, Any]
Cell = str | float | list[float | None] | None
Rows = tuple[list[str], list[list[Cell]]]
EXPENSIVE = ("expensive", "default")
"""The head of the scarce level of theory, alone or beside the cheap one."""


def levels(rows: Sequence[Row]) -> Rows:
    """Test errors of the expensive level over its number of frames, a column for each variant.

    Means over the draws of the frames.
    """
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    found: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["set"], row["frames"], row["variant"]), []).append(row)
    points = dict.fromkeys((row["set"], row["frames"]) for row in rows)
    table = [
        [name, str(frames), *(_means(found.get((name, frames, v), [])) for v in variants)]
        for name, frames in points
    ]
    return ["set", "frames", *variants], table


def _means(draws: Sequence[Row]) -> Cell:
    """Mean errors of energy and forces over rows that differ by their draw."""
    values = [errors(row, EXPENSIVE, ("energy", "forces")) for row in draws]
    if not all(isinstance(one, list) for one in values):
        return "failed"
    return [sum(column) / len(column) for column in zip(*values, strict=True)] or None


def water(rows: Sequence[Row]) -> Rows:
    """Test errors of energies and tensors in one model and in models of their own."""
    terms = ("energy", "forces", "dipole", "polarizability")
    table = [
        [row["set"], " + ".join(row["heads"]), row["plan"]]
        + [errors(row, row["heads"], (term,)) for term in terms]
        + [_parameters(row), row.get("cpu_seconds")]
        for row in rows
    ]
    names = [f"{term}, {UNITS[term]}" for term in terms]
    return ["set", "heads of the model", "plan", *names, "parameters", "seconds"], table


def embedding(rows: Sequence[Row]) -> Rows:
    """A table of radial coefficients against the type embedding."""
    table = [
        [row["set"], _embedding(row["embedding"])]
        + [errors(row, ("default",), (term,)) for term in ("energy", "forces")]
        + [_parameters(row), row.get("cpu_seconds")]
        for row in rows
    ]
    names = [f"{term}, {UNITS[term]}" for term in ("energy", "forces")]
    return ["set", "radial coefficients", *names, "parameters", "seconds"], table


def plans(rows: Sequence[Row]) -> Rows:
    """Plans of stages that differ by task, beside a flat one with as many steps."""
    table = [
        [row["set"], str(row["frames"]), row["plan"]]
        + [errors(row, EXPENSIVE, (term,)) for term in ("energy", "forces")]
        + [row.get("cpu_seconds")]
        for row in rows
    ]
    names = [f"{term}, {UNITS[term]}" for term in ("energy", "forces")]
    return ["set", "frames", "plan", *names, "seconds"], table


def finetuning(results: Sequence[Row]) -> Rows:
    """Test MAE of the forces from scratch and fine-tuned, and how soon the second is as good.

    results: the rows of `compare` in benchmarks/finetuning.py.
    """
    frames = sorted({row["frames"] or ALL for row in results})
    found: dict[tuple[str, str, str], dict[int, Row]] = {}
    for row in results:
        key = (row["model"], row["set"], "default" if row["plan"] == "none" else "LightPFP's")
        found.setdefault(key, {})[row["frames"] or ALL] = row
    table = []
    for key, rows in sorted(found.items(), key=lambda item: item[0]):
        soon = " / ".join(_share(rows[count]) for count in frames if count in rows)
        table.append([*key, *(_tuned(rows.get(count)) for count in frames), soon])
    names = ["all" if count == ALL else f"{count} frames" for count in frames]
    return ["model", "set", "plan", *names, "epochs, %"], table


def _tuned(row: Row | None) -> str | None:
    if row is None:
        return None
    tuned, scratch = row["forces_mae"]
    return f"{scratch:.0f} → {tuned:.0f} ({row['forces_ratio']:.2f})"


def _share(row: Row) -> str:
    """Share of the epochs after which fine-tuning is as good as scratch at its end."""
    return "–" if row["epochs_share"] is None else f"{100 * row['epochs_share']:.0f}"


ALL = 10**9
"""More than any number of frames."""
UNITS = {
    "energy": "meV/atom",
    "forces": "meV/Å",
    "dipole": "10⁻³ e·Å/atom",
    "polarizability": "10⁻³ Å³/atom",
}
KEYS = {
    "energy": ("energy_mae_meV_per_atom", 1.0),
    "forces": ("forces_mae_meV_per_A", 1.0),
    "dipole": ("dipole_mae_eA_per_atom", 1e3),
    "polarizability": ("polarizability_mae_A3_per_atom", 1e3),
}
CASES: dict[str, Callable[[Sequence[Row]], Rows]] = {
    "levels": levels,
    "water": water,
    "embedding": embedding,
    "plans": plans,
}


def errors(row: Row | None, heads: Iterable[str], terms: Sequence[str]) -> Cell:
    """Mean absolute errors of terms, of the first of the heads that has each."""
    if row is None:
        return None
    if "failed" in row:
        return "failed"
    found = [row["heads_errors"].get(head, {}) for head in heads]
    values = []
    for term in terms:
        key, scale = KEYS[term]
        value = next((one[key] for one in found if key in one), None)
        values.append(None if value is None else scale * value)
    return values


def _parameters(row: Row) -> str | None:
    return f"{row['parameters']:,}".replace(",", " ") if "parameters" in row else None


def _embedding(neuron: list[int] | None) -> str:
    return "table" if neuron is None else f"embedding {' '.join(map(str, neuron))}"
