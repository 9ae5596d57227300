"""Active sets of a training set for a trained model, and the grades of other structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtp.errors import InvalidInput
from mtp.geometry import Geometry
from mtp.grade import BREAK, SELECT, build_grading, chunks
from mtp.model_file import describe, load_model, save_model
from mtp.structure import Structure
from stages.evaluate import check_elements


@dataclass(frozen=True, eq=False)
class Grades:
    """Of structures: atoms: (atoms,) of all atoms in order; largest: (frames,) of each structure;
    configuration: (frames,) of the structures as wholes."""

    atoms: np.ndarray
    largest: np.ndarray
    configuration: np.ndarray


def add_grading(path: str | Path, structures: Sequence[Structure], memory: float = 4.0) -> None:
    """Put the active sets of a training set into a model file. memory: GiB for pairs."""
    potential = load_model(path)
    check_elements(potential, structures)
    spec = potential.spec
    geometry = Geometry(structures, spec.species, spec.cutoff, memory_limit=memory)
    potential.grading = build_grading(potential, geometry)
    save_model(path, potential, describe(path)["provenance"])


def grade_structures(path: str | Path, structures: Sequence[Structure]) -> Grades:
    """Extrapolation grades of structures. Raises InvalidInput for a model without active sets."""
    potential = load_model(path)
    if potential.grading is None:
        raise InvalidInput(
            f"{path}: has no active sets; add those of its training set by "
            f"`mtp grade --build {path} DATA`"
        )
    check_elements(potential, structures)
    spec, grading = potential.spec, potential.grading
    atoms, largest, wholes = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    geometry = Geometry(structures, spec.species, spec.cutoff, memory_limit=0)
    for batch, invariants, species in chunks(potential, geometry):
        structure, n = batch.structure.numpy(), batch.n_structures
        atoms.append(grading.of_atoms(invariants, species))
        largest.append(np.zeros(n))
        np.maximum.at(largest[-1], structure, atoms[-1])
        wholes.append(grading.of_structures(invariants, species, structure, n))
    return Grades(np.concatenate(atoms), np.concatenate(largest), np.concatenate(wholes))


def summary(grades: Grades) -> dict[str, float]:
    """What a table says of many structures; frames above the thresholds count by their largest."""
    atoms, largest = grades.atoms, grades.largest
    return {
        "frames": len(largest),
        "median": float(np.median(atoms)) if len(atoms) else 0.0,
        "99_percent": float(np.quantile(atoms, 0.99)) if len(atoms) else 0.0,
        "largest": float(atoms.max(initial=0.0)),
        f"frames_above_{SELECT:g}": int((largest > SELECT).sum()),
        f"frames_above_{BREAK:g}": int((largest > BREAK).sum()),
        "largest_configuration": float(grades.configuration.max(initial=0.0)),
    }
