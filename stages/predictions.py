"""Predictions of a head beside the labels of the structures, and the files that hold them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from ase import Atoms

from mtp.atomic_file import write_atomically
from mtp.errors import InvalidInput
from mtp.structure import Structure
from mtp.terms import TERMS

FIXED = ("atoms_per_structure", "numbers", "source", "index", "config_type")
"""Fields of `Predictions` that are one array each."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Labels and predictions of a list of structures, as flat arrays; an absent label is NaN.

    Sizes: S structures, `atoms` of them all together.
    labels, predicted: term → (S,), (S, components) or (atoms, components) in the units of
    mtp/terms.py; totals of the structure. The terms are those that the head predicts.
    Stress (both) is NaN where a structure is not periodic in three directions, atomic quantities
    where an atom does not contribute.
    """

    atoms_per_structure: np.ndarray  # (S,)
    numbers: np.ndarray  # (atoms,)
    labels: dict[str, np.ndarray]
    predicted: dict[str, np.ndarray]
    source: np.ndarray  # (S,) str: file each structure came from
    index: np.ndarray  # (S,) position of the frame in that file, from 0
    config_type: np.ndarray  # (S,) str

    @classmethod
    def collect(
        cls,
        structures: Sequence[Structure],
        values: Mapping[str, np.ndarray],
        selected: Sequence[int] = (),
    ) -> Predictions:
        """Put the labels of `structures` beside predictions.

        values: term → predictions, rows as in the class, stresses are ignored where not periodic.
        selected: atomic numbers of the atoms that contribute to tensors, () for all.
        Raises FloatingPointError, naming the frame, for a prediction that is not a finite number.
        """
        numbers = _concatenate([s.numbers for s in structures], (0,)).astype(np.int64)
        result = cls(
            atoms_per_structure=np.array([len(s) for s in structures], dtype=np.int64),
            numbers=numbers,
            labels={term: _labels(term, structures) for term in values},
            predicted={
                term: np.array(one, float).reshape(_shape(term)) for term, one in values.items()
            },
            source=np.array([s.source for s in structures], dtype=np.str_),
            index=np.array([s.index for s in structures], dtype=np.int64),
            config_type=np.array([s.config_type for s in structures], dtype=np.str_),
        )
        periodic = np.array([s.pbc.all() for s in structures], dtype=bool)
        result._check_finite(periodic)
        result._leave_out(periodic, selected)
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
        """Prediction minus label, NaN where there is no label, in the units of mtp/terms.py.

        Those of extensive terms are per atom.
        """
        difference = self.predicted[term] - self.labels[term]
        return self.per_atom(term, difference)

    def per_atom(self, term: str, values: np.ndarray) -> np.ndarray:
        """`values` of a term divided by the number of atoms where the term is extensive."""
        if not TERMS[term].extensive:
            return values
        return (values.T / self.atoms_per_structure).T

    def select(self, keep: np.ndarray) -> Predictions:
        """The structures where the mask `keep` (S,) is true."""
        atoms = np.repeat(keep, self.atoms_per_structure)

        def chosen(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {t: v[atoms if TERMS[t].rows == "atom" else keep] for t, v in values.items()}

        return Predictions(
            self.atoms_per_structure[keep],
            self.numbers[atoms],
            chosen(self.labels),
            chosen(self.predicted),
            self.source[keep],
            self.index[keep],
            self.config_type[keep],
        )

    def _check_finite(self, periodic: np.ndarray) -> None:
        bad = np.zeros(len(self), dtype=bool)
        for term, values in self.predicted.items():
            wrong = ~np.isfinite(as_rows(values)).all(axis=1)
            if term == "stress":
                wrong &= periodic
            bad[self.structure_of_atom[wrong] if TERMS[term].rows == "atom" else wrong] = True
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise FloatingPointError(
                f"the prediction for {self.where(first)} is not a finite number "
                f"({bad.sum()} such frames); look at this frame's shortest distance"
            )

    def _leave_out(self, periodic: np.ndarray, selected: Sequence[int]) -> None:
        """NaN in place of what has no meaning."""
        if "stress" in self.predicted:
            self.predicted["stress"][~periodic] = np.nan
        for term in ("atomic_dipole", "atomic_polarizability"):
            if term in self.predicted and len(selected):
                silent = ~np.isin(self.numbers, selected)
                self.predicted[term][silent] = self.labels[term][silent] = np.nan


def write_predictions(path: Path, predictions: dict[str, dict[str, Predictions]]) -> None:
    """Write {head: {set: Predictions}} as one .npz with keys ``head|set|field``.

    Fields are those of `Predictions`; labels stand under their term, predictions under
    ``term_predicted``.
    """
    arrays = {
        f"{head}|{name}|{field}": values
        for head, sets in predictions.items()
        for name, one in sets.items()
        for field, values in _arrays(one).items()
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
            head: {name: _from_arrays(values) for name, values in sets.items()}
            for head, sets in parts.items()
        }
    except (BadZipFile, ValueError, TypeError, KeyError, EOFError) as error:
        raise InvalidInput(
            f"{path}: damaged, or not predictions of mtp-train ({error}); delete it"
        ) from error


def write_predicted(
    path: str | Path,
    structures: Sequence[Structure],
    predictions: Mapping[str, Sequence[Predictions]],
) -> None:
    """Write structures with labels under the usual names and predictions as ``predicted_…``.

    predictions: head → one or more that together hold the structures in order. Where several heads
    predict a term, theirs stand under ``predicted_TERM_HEAD``. Tensors: six Voigt components.
    """
    from ase.io import write

    from mtp.data.formats.ase_files import atoms_of

    images = [atoms_of(replace(structure, weight=1.0)) for structure in structures]
    for image, structure in zip(images, structures, strict=True):
        image.info |= {"source": structure.source, "index": structure.index}
        for term in [t for t in image.info if t in TERMS and TERMS[t].rows == "atom"]:
            image.arrays[term] = image.info.pop(term)
    terms = Counter(t for sets in predictions.values() for t in (sets[0].predicted if sets else ()))
    for head, sets in predictions.items():
        rest = iter(images)
        for one in sets:
            names = {t: f"predicted_{t}" + (f"_{head}" if terms[t] > 1 else "") for t in terms}
            _add_predictions(rest, one, names)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write(path, images, format="extxyz")


def _arrays(one: Predictions) -> dict[str, np.ndarray]:
    fixed = {name: getattr(one, name) for name in FIXED}
    return fixed | one.labels | {f"{term}_predicted": v for term, v in one.predicted.items()}


def _from_arrays(arrays: dict[str, np.ndarray]) -> Predictions:
    terms = [name for name in arrays if name in TERMS]
    return Predictions(
        labels={term: arrays[term] for term in terms},
        predicted={term: arrays[f"{term}_predicted"] for term in terms},
        **{name: arrays[name] for name in FIXED},
    )


def _add_predictions(images: Iterator[Atoms], one: Predictions, names: dict[str, str]) -> None:
    """Put predictions into the next images, a term under its name; the head's NaN are left out."""
    first = np.cumsum(one.atoms_per_structure) - one.atoms_per_structure
    for frame, start in enumerate(first):
        image = next(images)
        for term, values in one.predicted.items():
            if TERMS[term].rows == "atom":
                rows = values[start : start + len(image)]
                image.arrays[names[term]] = np.nan_to_num(rows)  # 0 where atoms do not contribute
            elif np.isfinite(values[frame]).all():
                value = values[frame]
                image.info[names[term]] = float(value) if TERMS[term].components == 1 else value


def as_rows(values: np.ndarray) -> np.ndarray:
    """(rows, components) of values that may be (rows,)."""
    return values if values.ndim > 1 else values[:, None]


def _shape(term: str) -> tuple[int, ...]:
    return (-1,) if TERMS[term].components == 1 else (-1, TERMS[term].components)


def _labels(term: str, structures: Sequence[Structure]) -> np.ndarray:
    """The labels of a term, NaN where absent."""

    def rows(structure: Structure) -> np.ndarray:
        label = structure.label(term)
        label = np.full(TERMS[term].shape(len(structure)), np.nan) if label is None else label
        return np.reshape(label, _shape(term)).astype(float)

    return _concatenate([rows(s) for s in structures], (0, *_shape(term)[1:]))


def _concatenate(parts: list[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(empty)
