"""Errors of predictions against labels: the numbers of metrics.json and their breakdowns.

Every number here is a plain mean over what is labelled: the weights that files, config_types and
frames have in training do not enter. Errors of energies, dipoles and polarizabilities of structures
are per atom; those of vectors and symmetric tensors are over their components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa

from mtp.terms import TERMS
from stages.predictions import Predictions, as_rows

MILLI = 1e3


@dataclass(frozen=True)
class Measure:
    """How errors of a term are told: `scale` turns units of mtp/terms.py into `unit`.

    key: the unit in the keys of metrics.json, whose numbers are `key_scale` times ours.
    """

    key: str
    key_scale: float
    unit: str
    scale: float


MEASURES: dict[str, Measure] = {
    "energy": Measure("meV_per_atom", MILLI, "meV/atom", MILLI),
    "forces": Measure("meV_per_A", MILLI, "meV/Å", MILLI),
    "stress": Measure("meV_per_A3", MILLI, "GPa", 1 / GPa),
    "dipole": Measure("eA_per_atom", 1.0, "e·Å/atom", 1.0),
    "atomic_dipole": Measure("eA", 1.0, "e·Å", 1.0),
    "polarizability": Measure("A3_per_atom", 1.0, "Å³/atom", 1.0),
    "atomic_polarizability": Measure("A3", 1.0, "Å³", 1.0),
}


def set_metrics(predictions: Predictions) -> dict[str, float]:
    """Errors of one set of structures, as in metrics.json; an absent label has no key."""
    result: dict[str, float] = {"frames": len(predictions)}
    result["atoms"] = int(predictions.atoms_per_structure.sum())
    for term in predictions.predicted:
        result |= _term_metrics(term, predictions.errors(term))
    return result


def metrics(predictions: dict[str, dict[str, Predictions]]) -> dict[str, dict[str, Any]]:
    """The content of metrics.json: {head: {set: numbers}}."""
    return {
        head: {name: set_metrics(one) for name, one in sets.items()}
        for head, sets in predictions.items()
    }


def by_element(predictions: Predictions) -> dict[str, dict[str, float]]:
    """Force errors of each element's atoms: {symbol: {"atoms", "forces_mae_…", …}}.

    Of the first quantity of atoms that is labelled, which is not forces for tensors.
    """
    result: dict[str, dict[str, float]] = {}
    term = atomic_term(predictions)
    if term is None:
        return result
    errors = predictions.errors(term)
    for number in np.unique(predictions.numbers):
        mine = predictions.numbers == number
        values = _term_metrics(term, errors[mine])
        if values:
            labelled = int(np.isfinite(errors[mine][:, 0]).sum())
            result[chemical_symbols[number]] = {"atoms": labelled} | values
    return result


def atomic_term(predictions: Predictions) -> str | None:
    """The first term of atoms that has labels."""
    for term, label in predictions.labels.items():
        if TERMS[term].rows == "atom" and np.isfinite(label).any():
            return term
    return None


def by_file(predictions: Predictions) -> dict[str, dict[str, float]]:
    """`set_metrics` of each file's structures."""
    return _grouped(predictions, predictions.source)


def by_config_type(predictions: Predictions) -> dict[str, dict[str, float]]:
    """`set_metrics` of each config_type's structures; empty when no structure has one."""
    if not predictions.config_type.any():
        return {}
    return _grouped(predictions, predictions.config_type)


def worst_frames(predictions: Predictions, term: str, count: int = 10) -> list[dict[str, Any]]:
    """The `count` frames with the largest error of `term`, worst first.

    The error of a frame, in the unit of `MEASURES`: |energy error|; the norm of a dipole error; the
    largest component's error of a stress or polarizability; of quantities of atoms that of the
    worst atom (with that atom's number in the frame and its element).
    """
    size, atom = _frame_errors(predictions, term)
    labelled = np.flatnonzero(np.isfinite(size))
    order = labelled[np.argsort(-size[labelled], kind="stable")][:count]
    rows = []
    for frame in order:
        row = {
            "where": predictions.where(frame),
            "error": float(size[frame]),
            "atoms": int(predictions.atoms_per_structure[frame]),
            "config_type": str(predictions.config_type[frame]),
        }
        if atom is not None:
            start = int(predictions.atoms_per_structure[:frame].sum())
            row["atom"] = int(atom[frame]) - start
            row["element"] = chemical_symbols[predictions.numbers[atom[frame]]]
        rows.append(row)
    return rows


def _frame_errors(predictions: Predictions, term: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Size of each frame's error (S,) and, for terms of atoms, the atom it comes from (S,)."""
    rows = as_rows(predictions.errors(term) * MEASURES[term].scale)
    tensors = TERMS[term].components == 6
    size = np.abs(rows).max(axis=1) if tensors else np.linalg.norm(rows, axis=1)
    if TERMS[term].rows == "structure":
        return size, None
    worst = np.full(len(predictions), -1)
    # Ascending order: the last write to a frame is its largest error.
    labelled = np.flatnonzero(np.isfinite(size))
    ascending = labelled[np.argsort(size[labelled], kind="stable")]
    worst[predictions.structure_of_atom[ascending]] = ascending
    largest = np.where(worst >= 0, size[worst], np.nan) if len(size) else np.array([])
    return largest, worst


def _grouped(predictions: Predictions, names: np.ndarray) -> dict[str, dict[str, float]]:
    return {str(name): set_metrics(predictions.select(names == name)) for name in np.unique(names)}


def _term_metrics(term: str, errors: np.ndarray) -> dict[str, float]:
    """Mean absolute, root mean square and largest error of one term, in the units of its keys."""
    values = errors[np.isfinite(errors)]
    if not values.size:
        return {}
    measures: dict[str, Callable[[np.ndarray], float]] = {
        "mae": lambda v: float(np.abs(v).mean()),
        "rmse": lambda v: float(np.sqrt(np.square(v).mean())),
        "max": lambda v: float(np.abs(v).max()),
    }
    numbers = {name: of(values) for name, of in measures.items()}
    measure = MEASURES[term]
    result = {
        f"{term}_{name}_{measure.key}": measure.key_scale * value for name, value in numbers.items()
    }
    if term == "stress":
        result |= {f"stress_{name}_GPa": value / GPa for name, value in numbers.items()}
    return result
