"""Figures of one head of a run: which arrays go into which plot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.metrics import Predictions
from stages.report.history import TERMS, History
from stages.report.plots import (
    SET_COLOURS,
    Band,
    Curve,
    Image,
    error_distribution,
    over_epochs,
    parity,
)
from stages.report.tables import GPA, SCALES, UNITS

QUANTITY = {"energy": "energy", "forces": "force", "stress": "stress"}


def learning_curves(history: History, head: str, best: int | None = None) -> list[Image]:
    """One figure per term: root mean square (solid) and mean absolute error, train and valid.

    best: row of the log to mark.
    """
    mark = None if best is None else float(history.epochs[best])
    images = []
    for term in TERMS:
        curves = []
        for part in ("train", "valid"):
            mse = history.term(head, part, f"{term}_mse")
            l1 = history.term(head, part, f"{term}_l1")
            colour = SET_COLOURS[part]
            curves.append(Curve(f"{part} RMSE", SCALES[term] * np.sqrt(mse), colour))
            curves.append(Curve(f"{part} MAE", SCALES[term] * l1, colour, dashed=True))
        curves = [curve for curve in curves if np.isfinite(curve.y).any()]
        if curves:
            alt = f"{QUANTITY[term]} errors of train and valid over the epochs of all stages"
            label = f"{QUANTITY[term]} error ({UNITS[term]})"
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
    """Energy per atom, forces and stress: the training set beneath, test (or valid) above."""
    shown = _shown(sets)
    shifts = _composition_energies(sets)
    images = []
    for term in TERMS:
        pairs = {name: _pair(sets[name], term, shifts) for name in shown}
        pairs = {name: pair for name, pair in pairs.items() if pair[0].size}
        if pairs:
            alt = f"predicted over reference {QUANTITY[term]} for {', '.join(pairs)}"
            quantity = {"energy": "energy per atom"}.get(term, QUANTITY[term])
            unit = {"energy": "eV", "forces": "eV/Å", "stress": "GPa"}[term]
            images.append(parity(pairs, quantity, unit, alt))
    return images


def distributions(sets: dict[str, Predictions]) -> list[Image]:
    """Cumulative distributions of the absolute errors of every set."""
    images = []
    for term in TERMS:
        found = {name: _finite(one.errors(term)) * SCALES[term] for name, one in sets.items()}
        found = {name: errors for name, errors in found.items() if errors.size}
        if found:
            alt = f"cumulative distribution of absolute {QUANTITY[term]} errors"
            images.append(error_distribution(found, QUANTITY[term], UNITS[term], alt))
    return images


def energies_are_shifted(sets: dict[str, Predictions]) -> bool:
    """Whether parity plots show energies less a sum of element energies."""
    return len(np.unique(np.concatenate([one.numbers for one in sets.values()]))) > 1


def _shown(sets: dict[str, Predictions]) -> list[str]:
    head = headline_set(list(sets))
    return ["train", head] if "train" in sets and head != "train" else [head]


def _pair(one: Predictions, term: str, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    label, predicted = getattr(one, term), getattr(one, f"{term}_predicted")
    if term == "energy":
        reference = _composition(one) @ shifts
        label = (label - reference) / one.atoms_per_structure
        predicted = (predicted - reference) / one.atoms_per_structure
    labelled = np.isfinite(label)
    scale = GPA if term == "stress" else 1.0
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
    labelled = np.isfinite(one.energy)
    return np.linalg.lstsq(_composition(one)[labelled], one.energy[labelled], rcond=None)[0]


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
