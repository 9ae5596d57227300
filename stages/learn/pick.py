"""Which structures to label, and which of the labelled ones to add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtp.data.scan import largest_force
from mtp.geometry import Geometry
from mtp.grade import ActiveSet, chunks, thresholds
from mtp.model_file import load_model
from mtp.structure import Structure
from stages.control.sections.learn import Learn
from stages.evaluate import predict_structures
from stages.grade import grade_structures

PER_SAMPLE = 4  # candidates that a teacher labels to find one by its error


def pick(learn: Learn, model: Path, candidates: Sequence[Structure], seed: int) -> list[Structure]:
    """Structures to label, at most max_samples (by error: candidates for them)."""
    if learn.selection == "grade":
        return _by_grade(model, candidates, learn.grade_select, learn.max_samples)
    most = learn.max_samples * (PER_SAMPLE if learn.selection == "error" else 1)
    chosen = np.random.default_rng(seed).permutation(len(candidates))[:most]
    return [candidates[i] for i in np.sort(chosen)]


def _by_grade(
    model: Path, candidates: Sequence[Structure], threshold: float | None, most: int
) -> list[Structure]:
    """Those with atoms that enter the active sets, the most extrapolated ones first.

    An atom enters where its grade is above the threshold in the set as it is by then: the same
    novelty is not picked twice.
    """
    if not candidates:
        return []
    potential = load_model(model)
    grading, spec = potential.grading, potential.spec
    threshold = threshold or thresholds(potential)[0]
    order = np.argsort(-grade_structures(model, candidates).largest, kind="stable")
    ranked = [candidates[i] for i in order]
    used = [np.flatnonzero(inverse.any(axis=0)) for inverse in grading.neighbourhood]
    sets = [
        ActiveSet.of_inverse(inverse[np.ix_(mine, mine)])
        for inverse, mine in zip(grading.neighbourhood, used, strict=True)
    ]
    chosen: list[Structure] = []
    geometry = Geometry(ranked, spec.species, spec.cutoff, memory_limit=0)
    first = 0
    for batch, invariants, species in chunks(potential, geometry):
        rows, structure = grading.rows(invariants, species), batch.structure.numpy()
        for k in range(batch.n_structures):
            mine = structure == k
            news = [
                sets[z].update(rows[mine & (species == z)][:, used[z]], tolerance=threshold)
                for z in np.unique(species[mine])
            ]
            if any(news):
                chosen.append(ranked[first + k])
            if len(chosen) == most:
                return chosen
        first += batch.n_structures
    return chosen


@dataclass(frozen=True, eq=False)
class Judged:
    """What the student got wrong on labelled structures, (frames,) each.

    energy: eV/atom.  force: eV/Å, of the worst atom.  stress: eV/Å³, of the worst component.
    grade: the largest of the structure's atoms.
    """

    energy: np.ndarray
    force: np.ndarray
    stress: np.ndarray
    grade: np.ndarray


def judge(model: Path, frames: Sequence[Structure]) -> Judged:
    """Errors and grades of a student."""
    found = predict_structures(load_model(model), frames)
    off = {term: found.predicted[term] - found.labels[term] for term in found.predicted}
    ends = np.cumsum(found.atoms_per_structure)[:-1]
    lengths = np.split(np.linalg.norm(off["forces"], axis=1), ends)
    return Judged(
        energy=np.abs(off["energy"]) / found.atoms_per_structure,
        force=np.array([part.max(initial=0.0) for part in lengths]),
        stress=np.nan_to_num(np.abs(off["stress"]).max(axis=1)),
        grade=grade_structures(model, frames).largest,
    )


def accept(
    learn: Learn, frames: Sequence[Structure], judged: Judged, mean: dict[str, float]
) -> list[Structure]:
    """The labelled structures to add: no absurd forces and, by error, errors in the windows.

    mean: mean absolute errors "energy" (eV/atom) and "stress" (eV/Å³) in training.
    """
    sane = np.array([largest_force(frame) <= learn.dF_max for frame in frames], bool)
    if learn.selection == "error":
        energy, stress = mean["energy"], mean["stress"]
        windows = (
            (judged.energy, learn.dE_min_coef * energy, learn.dE_max_coef * energy),
            (judged.force, learn.dF_min, learn.dF_max),
            (judged.stress, learn.dS_min_coef * stress, learn.dS_max_coef * stress),
        )
        sane &= np.any([(low < x) & (x < high) for x, low, high in windows], axis=0)
    return [frame for frame, good in zip(frames, sane, strict=True) if good][: learn.max_samples]
