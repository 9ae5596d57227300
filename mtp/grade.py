"""Extrapolation grades: how far an atom's invariants lie outside those of the training set.

An active set of n rows spans the training set as widely as possible: of all choices of n rows its
|det A| is (nearly) the largest, found by maxvol. Any row is b = Σ_j γ_j a_j of it, and its grade is
γ = max |γ_j|: up to about 1 it lies among the training rows.
Sources: Goreinov et al. (2010), 10.1142/9789812836021_0015; Podryabinkin and Shapeev (2017),
10.1016/j.commatsci.2017.08.031.

A row is the invariants of an atom, standardised over the training atoms of its species: one set for
each central species. There are two kinds, of rows of single atoms ("neighbourhood", for molecular
dynamics) and of means over a structure's atoms of the species ("configuration", for structures as
wholes; means, so that larger cells of the same do not count as new).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from mtp.geometry import Batch, Geometry
    from mtp.potential import Potential

START = 1e-3
"""A set starts as START times the unit matrix: directions in which the training rows spread less
(in standard deviations) count as this wide. From level 16 on invariants are linearly dependent, and
without it there would be no inverse."""
RELATIVE = 1e-3  # an invariant spreads at least by this part of its mean
TOLERANCE = 1.01  # a row enters a set while its grade is larger
PASSES = 10  # over the training set at most; usually the third finds nothing new
ATOMS_AT_A_TIME = 4096
MOST = 160
"""Invariants of a species that count at most: grades cost their square. Those that the others tell
best are left out (only above level 16 are there more)."""
SELECT, BREAK = 2.0, 10.0
"""Grades from which an atom deserves a label, and from which its forces are not to be trusted."""
SELECT_NETWORK, BREAK_NETWORK = 1.2, 5.0
"""The same for neural readouts, whose errors rise as soon as they extrapolate."""
PREFIX = "grade."


class ActiveSet:
    """n rows of n columns, replaced one by one by rows that enlarge the determinant.

    sources: (n,) where each row came from, −1 for those of the start.
    """

    def __init__(self, columns: int, start: float = START) -> None:
        self.rows = start * np.eye(columns)
        self.inverse = np.eye(columns) / start
        self.sources = np.full(columns, -1)

    @classmethod
    def of_inverse(cls, inverse: np.ndarray) -> ActiveSet:
        """The set that has this invertible inverse, to go on with other rows."""
        one = cls(len(inverse))
        one.rows, one.inverse = np.linalg.inv(inverse), inverse.copy()
        return one

    def grades(self, rows: np.ndarray) -> np.ndarray:
        """(m,) grades of rows (m, n)."""
        return np.abs(rows @ self.inverse).max(axis=1, initial=0.0)

    def update(self, rows: np.ndarray, source: int = 0, tolerance: float = TOLERANCE) -> bool:
        """Take in what enlarges the determinant of rows (m, n); whether any did."""
        coefficients, changed = rows @ self.inverse, False
        while coefficients.size:
            i, j = divmod(int(np.abs(coefficients).argmax()), coefficients.shape[1])
            if not abs(coefficients[i, j]) > tolerance:
                break
            changed = True
            self.rows[j], self.sources[j] = rows[i], source
            step = coefficients[i].copy()  # Sherman and Morrison
            step[j] -= 1
            step /= coefficients[i, j]
            coefficients -= np.outer(coefficients[:, j], step)
            self.inverse -= np.outer(self.inverse[:, j], step)
        if changed:
            self.inverse = np.linalg.inv(self.rows)  # free of the rounding errors of the steps
        return changed


@dataclass(frozen=True, eq=False)
class Grading:
    """What grades are computed from: S species, n invariants; float64.

    mean, inverse_std: (S, n).  neighbourhood, configuration: (S, n, n) inverses of the active sets,
    with rows and columns of zeros for invariants that do not count.
    Species without training atoms have those of the start: everything of them is new.
    """

    mean: np.ndarray
    inverse_std: np.ndarray
    neighbourhood: np.ndarray
    configuration: np.ndarray

    def tensors(self) -> dict[str, torch.Tensor]:
        """By their names in a model file."""
        return {
            PREFIX + one.name: torch.from_numpy(getattr(self, one.name)) for one in fields(self)
        }

    @classmethod
    def take(cls, tensors: dict[str, torch.Tensor], n_species: int, n: int) -> Grading | None:
        """What `tensors` wrote, removed from the tensors of a model file; None where it is not."""
        given = {one.name: tensors.pop(PREFIX + one.name, None) for one in fields(cls)}
        if all(tensor is None for tensor in given.values()):
            return None
        for name, tensor in given.items():
            shape = (n_species, n) if "mean" in name or "std" in name else (n_species, n, n)
            if tensor is None or tensor.shape != shape:
                raise RuntimeError(f"tensor {PREFIX}{name} is missing or has a wrong shape")
        return cls(**{name: tensor.double().numpy() for name, tensor in given.items()})

    def of_atoms(self, invariants: np.ndarray, species: np.ndarray) -> np.ndarray:
        """(atoms,) grades of invariants (atoms, n); species: (atoms,) indices."""
        rows, found = self.rows(invariants, species), np.zeros(len(species))
        for z in np.unique(species):
            mine = species == z
            found[mine] = np.abs(rows[mine] @ self.neighbourhood[z]).max(axis=1)
        return found

    def of_structures(
        self, invariants: np.ndarray, species: np.ndarray, structure: np.ndarray, n: int
    ) -> np.ndarray:
        """(n,) grades of whole structures, the largest of their species'; structure: (atoms,)."""
        rows, found = self.rows(invariants, species), np.zeros(n)
        for z in np.unique(species):
            mine = species == z
            means, there = mean_rows(rows[mine], structure[mine], n)
            graded = np.abs(means @ self.configuration[z]).max(axis=1)
            found[there] = np.maximum(found[there], graded)
        return found

    def rows(self, invariants: np.ndarray, species: np.ndarray) -> np.ndarray:
        """(atoms, n) standardised invariants."""
        return (invariants - self.mean[species]) * self.inverse_std[species]


def thresholds(potential: Potential) -> tuple[float, float]:
    """Grades to select and to break at, for its readouts."""
    network = any(head.hidden for head in potential.spec.heads)
    return (SELECT_NETWORK, BREAK_NETWORK) if network else (SELECT, BREAK)


def mean_rows(rows: np.ndarray, structure: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of rows over structures, and the indices of those of n that have any."""
    count = np.bincount(structure, minlength=n)
    there = np.flatnonzero(count)
    sums = np.zeros((n, rows.shape[1]))
    np.add.at(sums, structure, rows)
    return sums[there] / count[there, None], there


def build_grading(potential: Potential, geometry: Geometry) -> Grading:
    """Active sets of a training set for a potential as it is now; read in chunks, a few times."""
    n_species, n = len(potential.spec.species), len(potential.table.scalars)
    mean, inverse_std, used = _standards(potential, geometry, n_species, n)
    shape = (n_species, n, n)
    grading = Grading(mean, inverse_std, np.zeros(shape), np.zeros(shape))
    atoms, wholes = ([ActiveSet(len(used[z])) for z in range(n_species)] for _ in range(2))
    for _ in range(PASSES):
        changed = False
        for batch, invariants, species in chunks(potential, geometry):
            rows, structure = grading.rows(invariants, species), batch.structure.cpu().numpy()
            for z in np.unique(species):
                mine = species == z
                own = rows[mine][:, used[z]]
                means, _ = mean_rows(own, structure[mine], batch.n_structures)
                changed |= atoms[z].update(own)
                changed |= wholes[z].update(means)
        if not changed:
            break
    for z in range(n_species):
        grading.neighbourhood[z][np.ix_(used[z], used[z])] = atoms[z].inverse
        grading.configuration[z][np.ix_(used[z], used[z])] = wholes[z].inverse
    return grading


def _standards(
    potential: Potential, geometry: Geometry, n_species: int, n: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Mean and inverse standard deviation (S, n) of the invariants, and which count, by species."""
    count, mean = np.zeros(n_species), np.zeros((n_species, n))
    spread = np.zeros((n_species, n, n))  # sums of products of deviations from the mean
    for _, invariants, species in chunks(potential, geometry):
        for z in np.unique(species):
            mine = invariants[species == z]
            change = mine.mean(axis=0) - mean[z]  # Chan et al.: parts are joined without rounding
            total = count[z] + len(mine)
            off = mine - mine.mean(axis=0)
            spread[z] += off.T @ off + np.outer(change, change) * (count[z] * len(mine) / total)
            mean[z] += change * len(mine) / total
            count[z] = total
    covariance = spread / np.maximum(count, 1)[:, None, None]
    variance = np.diagonal(covariance, axis1=1, axis2=2) + (RELATIVE * mean) ** 2
    inverse_std = 1 / np.sqrt(np.where(variance > 0, variance, 1.0))
    correlation = covariance * inverse_std[:, :, None] * inverse_std[:, None, :]
    return mean, inverse_std, [most_telling(one, MOST) for one in correlation]


def most_telling(correlation: np.ndarray, most: int) -> np.ndarray:
    """Indices, ascending, of the columns that determine the others best (pivoted Cholesky)."""
    if len(correlation) <= most:
        return np.arange(len(correlation))
    left, chosen = correlation.copy(), []
    for _ in range(most):
        rest = np.diagonal(left).copy()
        rest[chosen] = -np.inf
        pivot = int(rest.argmax())
        chosen.append(pivot)
        if rest[pivot] > 1e-14:
            left -= np.outer(left[:, pivot], left[pivot]) / rest[pivot]
    return np.sort(chosen)


def chunks(
    potential: Potential, geometry: Geometry
) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
    """Structures some thousand atoms at a time, with invariants and species of their atoms."""
    sizes = np.cumsum(geometry.n_atoms)
    for indices in np.split(
        np.arange(len(geometry)),
        np.flatnonzero(np.diff(sizes // ATOMS_AT_A_TIME)) + 1,
    ):
        if len(indices):
            batch = geometry.batch(indices)
            invariants = potential.invariants(batch).double().cpu().numpy()
            yield batch, invariants, batch.species.cpu().numpy()


def grade_atoms(potential: Potential, batch: Batch) -> np.ndarray:
    """(atoms,) neighbourhood grades of a batch, float64; the potential must have a grading."""
    invariants = potential.invariants(batch).double().cpu().numpy()
    return potential.grading.of_atoms(invariants, batch.species.cpu().numpy())
