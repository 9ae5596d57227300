"""Figures of one head of a run: which arrays go into which plot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.metrics import MEASURES
from stages.predictions import Predictions, as_rows
from stages.report.history import History
from stages.report.plots import (
    SET_COLOURS,
    Band,
    Curve,
    Image,
    error_distribution,
    over_epochs,
    parity,
)

QUANTITY = {"forces": "force", "atomic_dipole": "dipole of atoms"}
QUANTITY["atomic_polarizability"] = "polarizability of atoms"
"""What figures call a term where its name will not do."""
AXIS = {  # parity plots: quantity and unit
    "energy": ("energy per atom", "eV"),
    "forces": ("force", "eV/Å"),
    "stress": ("stress", "GPa"),
    "dipole": ("dipole per atom", "e·Å"),
    "atomic_dipole": ("dipole of atoms", "e·Å"),
    "polarizability": ("polarizability per atom", "Å³"),
    "atomic_polarizability": ("polarizability of atoms", "Å³"),
}


def learning_curves(history: History, head: str, best: int | None = None) -> list[Image]:
    """One figure per term: root mean square (solid) and mean absolute error, train and valid.

    best: row of the log to mark.
    """
    mark = None if best is None else float(history.epochs[best])
    images = []
    for term in history.terms(head):
        measure, quantity = MEASURES[term], QUANTITY.get(term, term)
        curves = []
        for part in ("train", "valid"):
            mse = history.term(head, part, f"{term}_mse")
            l1 = history.term(head, part, f"{term}_l1")
            colour = SET_COLOURS[part]
            curves.append(Curve(f"{part} RMSE", measure.scale * np.sqrt(mse), colour))
            curves.append(Curve(f"{part} MAE", measure.scale * l1, colour, dashed=True))
        curves = [curve for curve in curves if np.isfinite(curve.y).any()]
        if curves:
            alt = f"{quantity} errors of train and valid over the epochs of all stages"
            label = f"{quantity} error ({measure.unit})"
            images.append(over_epochs(curves, _bands(history), history.epochs, label, alt, mark))
    return images


def learning_rate(history: History, without: Sequence[str] = ()) -> Image | None:
    """Learning rate over the epochs; stages named in `without` have none."""
    curves = []
    for span in history.spans:
        lr = np.full(len(history.rows), np.nan)
        lr[span.start : span.end] = [row["lr"] for row in history.rows[span.start : span.end]]
        if span.name not in without:
            curves.append(Curve("", lr, SET_COLOURS["test"]))
    if not curves:
        return None
    alt = "learning rate over the epochs of all stages"
    return over_epochs(curves, _bands(history), history.epochs, "learning rate", alt)


def _bands(history: History) -> list[Band]:
    x = history.epochs
    return [Band(s.name, x[s.start] - 1, x[s.end - 1]) for s in history.spans]


def headline_set(sets: Sequence[str]) -> str:
    """The set that says most about the potential: test, else valid, else train."""
    return next(name for name in ("test", "valid", "train") if name in sets)


def parity_plots(sets: dict[str, Predictions]) -> list[Image]:
    """One for each term, extensive ones per atom: train beneath, test (or valid) above."""
    shown = _shown(sets)
    shifts = _composition_energies(sets)
    images = []
    for term in _terms(sets):
        pairs = {name: _pair(sets[name], term, shifts) for name in shown}
        pairs = {name: pair for name, pair in pairs.items() if pair[0].size}
        if pairs:
            images += _parity(term, pairs)
    return images


def _parity(term: str, pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[Image]:
    """One plot; of polarizabilities two, for their diagonal is far from the rest."""
    quantity, unit = AXIS[term]
    parts = {"": slice(None)}
    if "polarizability" in term:
        parts = {" xx yy zz": slice(0, 3), " yz xz xy": slice(3, 6)}
    images = []
    for components, part in parts.items():
        found = {
            name: (label[..., part].ravel(), predicted[..., part].ravel())
            for name, (label, predicted) in pairs.items()
        }
        alt = f"predicted over reference {QUANTITY.get(term, term)}{components} for "
        label = quantity + components.replace(" ", ", ", 1)
        images.append(parity(found, label, unit, alt + ", ".join(pairs)))
    return images


def distributions(sets: dict[str, Predictions]) -> list[Image]:
    """Cumulative distributions of the absolute errors of every set."""
    images = []
    for term in _terms(sets):
        scale, quantity = MEASURES[term].scale, QUANTITY.get(term, term)
        found = {name: _finite(one.errors(term)) * scale for name, one in sets.items()}
        found = {name: errors for name, errors in found.items() if errors.size}
        if found:
            alt = f"cumulative distribution of absolute {quantity} errors"
            images.append(error_distribution(found, quantity, MEASURES[term].unit, alt))
    return images


def energies_are_shifted(sets: dict[str, Predictions]) -> bool:
    """Whether parity plots show energies less a sum of element energies."""
    several = len(np.unique(np.concatenate([one.numbers for one in sets.values()]))) > 1
    return several and "energy" in _terms(sets)


def _terms(sets: dict[str, Predictions]) -> list[str]:
    """What the head predicts."""
    return list(next(iter(sets.values())).predicted)


def _shown(sets: dict[str, Predictions]) -> list[str]:
    head = headline_set(list(sets))
    return ["train", head] if "train" in sets and head != "train" else [head]


def _pair(one: Predictions, term: str, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    label, predicted = one.labels[term], one.predicted[term]
    if term == "energy":
        reference = _composition(one) @ shifts
        label, predicted = label - reference, predicted - reference
    labelled = np.isfinite(as_rows(label)).all(axis=1)
    scale = MEASURES[term].scale if term == "stress" else 1.0
    label, predicted = one.per_atom(term, label), one.per_atom(term, predicted)
    return scale * label[labelled], scale * predicted[labelled]


def _composition(one: Predictions) -> np.ndarray:
    """(S, 120) atoms of each atomic number in each structure."""
    counts = np.zeros((len(one), 120))
    np.add.at(counts, (one.structure_of_atom, one.numbers), 1.0)
    return counts


def _composition_energies(sets: dict[str, Predictions]) -> np.ndarray:
    """(120,) eV per atom of each element that best explain the labels; zero for a single element.

    Energies of different compositions differ by hundreds of eV; without this no error is visible.
    """
    if not energies_are_shifted(sets):
        return np.zeros(120)
    one = sets["train"] if "train" in sets else sets[headline_set(list(sets))]
    energy = one.labels["energy"]
    labelled = np.isfinite(energy)
    return np.linalg.lstsq(_composition(one)[labelled], energy[labelled], rcond=None)[0]


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
