"""Errors of predictions against labels: the numbers of metrics.json and their breakdowns.

Every number here is a plain mean over what is labelled: the weights that files, config_types and
frames have in training do not enter. Energy errors are per atom, force errors per Cartesian
component, stress errors over the six Voigt components.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa

from mtp.atomic_file import write_atomically
from mtp.errors import InvalidInput
from mtp.structure import Structure

MILLI = 1e3
TERMS = ("energy", "forces", "stress")
UNITS = {"energy": "meV_per_atom", "forces": "meV_per_A", "stress": "meV_per_A3"}


@dataclass(frozen=True, eq=False)
class Predictions:
    """Labels and predictions of a list of structures, as flat arrays; an absent label is NaN.

    Sizes: S structures, `atoms` of them all together.  Units: eV, eV/Å, eV/Å³; energies are totals
    of the structure.  ``energy``, ``forces``, ``stress`` are labels, ``*_predicted`` the model's.
    Stress (both) is NaN where a structure is not periodic in three directions.
    """

    atoms_per_structure: np.ndarray  # (S,)
    numbers: np.ndarray  # (atoms,)
    energy: np.ndarray  # (S,)
    energy_predicted: np.ndarray  # (S,)
    forces: np.ndarray  # (atoms, 3)
    forces_predicted: np.ndarray  # (atoms, 3)
    stress: np.ndarray  # (S, 6) Voigt xx yy zz yz xz xy
    stress_predicted: np.ndarray  # (S, 6)
    source: np.ndarray  # (S,) str: file each structure came from
    index: np.ndarray  # (S,) position of the frame in that file, from 0
    config_type: np.ndarray  # (S,) str

    @classmethod
    def collect(
        cls,
        structures: Sequence[Structure],
        energy: np.ndarray,
        forces: np.ndarray,
        stress: np.ndarray,
    ) -> Predictions:
        """Put the labels of `structures` beside predictions.

        energy: (S,).  forces: (atoms, 3).  stress: (S, 6), ignored where not periodic.
        Raises FloatingPointError, naming the frame, for a prediction that is not a finite number.
        """
        periodic = np.array([s.pbc.all() for s in structures], dtype=bool)
        result = cls(
            atoms_per_structure=np.array([len(s) for s in structures], dtype=np.int64),
            numbers=_concatenate([s.numbers for s in structures], (0,)).astype(np.int64),
            energy=np.array([np.nan if s.energy is None else s.energy for s in structures], float),
            energy_predicted=np.array(energy, float).reshape(len(structures)),
            forces=_concatenate([_or_nan(s.forces, (len(s), 3)) for s in structures], (0, 3)),
            forces_predicted=np.array(forces, float).reshape(-1, 3),
            stress=_concatenate(
                [_or_nan(s.stress if s.pbc.all() else None, (1, 6)) for s in structures], (0, 6)
            ),
            stress_predicted=np.where(periodic[:, None], np.reshape(stress, (-1, 6)), np.nan),
            source=np.array([s.source for s in structures], dtype=np.str_),
            index=np.array([s.index for s in structures], dtype=np.int64),
            config_type=np.array([s.config_type for s in structures], dtype=np.str_),
        )
        result._check_finite(periodic)
        return result

    def __len__(self) -> int:
        return len(self.atoms_per_structure)

    def where(self, frame: int) -> str:
        """``file#index`` of a frame."""
        return f"{self.source[frame]}#{self.index[frame]}"

    @property
    def structure_of_atom(self) -> np.ndarray:
        """(atoms,) index of the structure each atom is in."""
        return np.repeat(np.arange(len(self)), self.atoms_per_structure)

    def errors(self, term: str) -> np.ndarray:
        """Prediction minus label, NaN where there is no label.

        energy: (S,) eV/atom.  forces: (atoms, 3) eV/Å.  stress: (S, 6) eV/Å³.
        """
        difference = getattr(self, f"{term}_predicted") - getattr(self, term)
        return difference / self.atoms_per_structure if term == "energy" else difference

    def select(self, keep: np.ndarray) -> Predictions:
        """The structures where the mask `keep` (S,) is true."""
        atoms = np.repeat(keep, self.atoms_per_structure)
        per_atom = {"numbers", "forces", "forces_predicted"}
        return Predictions(
            **{
                f.name: getattr(self, f.name)[atoms if f.name in per_atom else keep]
                for f in fields(self)
            }
        )

    def _check_finite(self, periodic: np.ndarray) -> None:
        bad = ~np.isfinite(self.energy_predicted)
        bad |= periodic & ~np.isfinite(self.stress_predicted).all(axis=1)
        bad_atoms = ~np.isfinite(self.forces_predicted).all(axis=1)
        bad[self.structure_of_atom[bad_atoms]] = True
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise FloatingPointError(
                f"the prediction for {self.where(first)} is not a finite number "
                f"({bad.sum()} such frames); look at this frame's shortest distance"
            )


def write_predictions(path: Path, predictions: dict[str, dict[str, Predictions]]) -> None:
    """Write {head: {set: Predictions}} as one .npz with keys ``head|set|field``."""
    arrays = {
        f"{head}|{name}|{f.name}": getattr(one, f.name)
        for head, sets in predictions.items()
        for name, one in sets.items()
        for f in fields(one)
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(Path(path), buffer.getvalue())


def read_predictions(path: Path) -> dict[str, dict[str, Predictions]]:
    """Read what `write_predictions` wrote; raises InvalidInput for a damaged file."""
    parts: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    try:
        with np.load(path) as arrays:
            for key in arrays.files:
                head, name, field_name = key.split("|")
                parts.setdefault(head, {}).setdefault(name, {})[field_name] = arrays[key]
        return {
            head: {name: Predictions(**values) for name, values in sets.items()}
            for head, sets in parts.items()
        }
    except (BadZipFile, ValueError, TypeError, EOFError) as error:
        raise InvalidInput(
            f"{path}: damaged, or not predictions of mtp-train ({error}); delete it"
        ) from error


def set_metrics(predictions: Predictions) -> dict[str, float]:
    """Errors of one set of structures, as in metrics.json; an absent label has no key."""
    result: dict[str, float] = {"frames": len(predictions)}
    result["atoms"] = int(predictions.atoms_per_structure.sum())
    for term in TERMS:
        result |= _term_metrics(term, predictions.errors(term))
    return result


def metrics(predictions: dict[str, dict[str, Predictions]]) -> dict[str, dict[str, Any]]:
    """The content of metrics.json: {head: {set: numbers}}."""
    return {
        head: {name: set_metrics(one) for name, one in sets.items()}
        for head, sets in predictions.items()
    }


def by_element(predictions: Predictions) -> dict[str, dict[str, float]]:
    """Force errors of each element's atoms: {symbol: {"atoms", "forces_mae_…", …}}."""
    errors = predictions.errors("forces")
    result = {}
    for number in np.unique(predictions.numbers):
        mine = predictions.numbers == number
        values = _term_metrics("forces", errors[mine])
        if values:
            labelled = int(np.isfinite(errors[mine][:, 0]).sum())
            result[chemical_symbols[number]] = {"atoms": labelled} | values
    return result


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

    The error of a frame: |energy error| in meV/atom; the norm of the worst atom's force error in
    meV/Å (with that atom's number in the frame and its element); the largest stress component's
    error in GPa.
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
    """Size of each frame's error (S,) and, for forces, the atom it comes from (S,)."""
    errors = predictions.errors(term)
    if term == "energy":
        return MILLI * np.abs(errors), None
    if term == "stress":
        return np.abs(errors).max(axis=1) / GPa, None
    norms = np.linalg.norm(errors, axis=1)
    worst = np.full(len(predictions), -1)
    # Ascending order: the last write to a frame is its largest error.
    labelled = np.flatnonzero(np.isfinite(norms))
    ascending = labelled[np.argsort(norms[labelled], kind="stable")]
    worst[predictions.structure_of_atom[ascending]] = ascending
    size = np.where(worst >= 0, MILLI * norms[worst], np.nan) if len(norms) else np.array([])
    return size, worst


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
    numbers = {name: measure(values) for name, measure in measures.items()}
    result = {f"{term}_{name}_{UNITS[term]}": MILLI * value for name, value in numbers.items()}
    if term == "stress":
        result |= {f"stress_{name}_GPa": value / GPa for name, value in numbers.items()}
    return result


def _or_nan(label: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan) if label is None else np.reshape(label, shape).astype(float)


def _concatenate(parts: list[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(empty)
