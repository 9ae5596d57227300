"""The page of `mtp validate`: numbers side by side and curves over one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.report.lines import MODEL, REFERENCE, Line, lines_plot
from stages.report.plots import Image
from stages.report.sections import Part, write_page
from stages.report.tables import Cell, Table
from stages.validate import compare

Values = dict[str, Any]
COLOURS = {"reference": REFERENCE, "model": MODEL}
TITLES = {
    "lattice": "lattice",
    "eos": "equation of state",
    "elastic": "elastic constants",
    "phonons": "phonons",
    "vacancy": "vacancy",
    "rdf": "radial distribution",
}


def write_validation(
    path: Path, values: dict[str, Values], facts: Sequence[tuple[str, str]]
) -> Path:
    """Write the page."""
    plots = [draw(values) for draw in (_eos, _phonons, _elastic, _rdf)]
    images = [image for image in plots if image is not None]
    parts = [
        Part(
            "Properties",
            "Each potential relaxes the crystal by itself; its properties are those of its own "
            "minimum.",
            tables=[comparison_table(values)],
            notes=failures(values),
        ),
        Part("Curves", images=images),
    ]
    return write_page(path, "Properties of a potential", parts, facts)


def comparison_table(values: dict[str, Values]) -> Table:
    """Numbers of model and reference."""
    rows = []
    for quantity, unit, model, reference in compare(values):
        curve = quantity.startswith("difference")
        difference = model - reference
        relative = 100 * difference / abs(reference) if reference and not curve else np.nan
        digits = [Cell(f"{x:.5g}".replace("-", "−")) for x in (model, reference) if np.isfinite(x)]
        pair = digits if len(digits) == 2 else [model, reference]
        beside = [None, None, model] if curve else [*pair, difference]
        off = Cell(f"{relative:+.1f} %".replace("-", "−")) if np.isfinite(relative) else None
        rows.append([quantity, unit, *beside, off])
    head = ("quantity", "unit", "model", "reference", "difference", "relative")
    return Table.of(head, rows, text_columns=2)


def failures(values: dict[str, Values]) -> list[str]:
    """What could not be computed, and why."""
    return [
        f"{TITLES.get(name, name)} by the {who}: {one['failed']}"
        for who, mine in values.items()
        for name, one in mine.items()
        if isinstance(one, dict) and "failed" in one
    ]


def _with(values: dict[str, Values], name: str, key: str) -> dict[str, Values]:
    """Who has a property, the reference first so that the model is drawn over it."""
    order = sorted(values, key=lambda who: who == "model")
    return {who: values[who][name] for who in order if key in values[who].get(name, {})}


def _eos(values: dict[str, Values]) -> Image | None:
    lines = []
    for who, one in _with(values, "eos", "energies_eV_per_atom").items():
        energies = np.array(one["energies_eV_per_atom"])
        lines.append(
            Line(
                *(who, np.array(one["volumes_A3_per_atom"]), 1000 * (energies - energies.min())),
                COLOURS[who],
                marks="both",
                width=3.0 if who == "reference" else 1.4,
            )
        )
    if not lines:
        return None
    label = "energy above the minimum (meV/atom)"
    return lines_plot(lines, "volume (Å³/atom)", label, "energies over volumes")


def _phonons(values: dict[str, Values]) -> Image | None:
    found = _with(values, "phonons", "path")
    lines, ticks = [], None
    for who, one in found.items():
        path = one["path"]
        bands = np.array(path["bands"])
        x = np.array(path["x"]) / path["x"][-1]  # cells of slightly different size
        ticks = _ticks(np.array(path["ticks"]) / path["x"][-1], path["labels"])
        for k in range(bands.shape[1]):
            label = who if k == 0 else ""
            width = 2.6 if who == "reference" else 1.1
            lines.append(Line(label, x, bands[:, k], COLOURS[who], width=width))
    if not lines:
        return None
    return lines_plot(lines, "", "frequency (THz)", "phonon frequencies", ticks=ticks)


def _ticks(places: np.ndarray, labels: Sequence[str]) -> tuple[list[float], list[str]]:
    """Places and names on the axis; names that share a place stand together."""
    names: dict[float, str] = {}
    for place, label in zip(np.round(places, 6).tolist(), labels, strict=True):
        name = "Γ" if label == "G" else label
        names[place] = f"{names[place]}|{name}" if names.get(place, name) != name else name
    return list(names), list(names.values())


def _elastic(values: dict[str, Values]) -> Image | None:
    found = _with(values, "elastic", "matrix_GPa")
    if len(found) < 2:
        return None
    upper = np.triu_indices(6)
    pair = [np.array(found[who]["matrix_GPa"])[upper] for who in ("reference", "model")]
    low, high = min(map(np.min, pair)), max(map(np.max, pair))
    margin = 0.05 * (high - low)
    diagonal = np.array([low - margin, high + margin])
    lines = [
        Line("", diagonal, diagonal, "#9aa5b1", width=0.9),
        Line("", *pair, MODEL, marks="points"),
    ]
    return lines_plot(
        lines, "elastic constant, reference (GPa)", "model (GPa)", "elastic constants of both"
    )


def _rdf(values: dict[str, Values]) -> Image | None:
    found = _with(values, "rdf", "g")
    lines = [
        Line(
            *(who, np.array(one["r_A"]), np.array(one["g"]), COLOURS[who]),
            width=3.0 if who == "reference" else 1.4,
        )
        for who, one in found.items()
    ]
    if not lines:
        return None
    kelvin = next(iter(found.values()))["temperature_K"]
    return lines_plot(lines, "distance (Å)", f"g(r) at {kelvin:g} K", "radial distribution")
