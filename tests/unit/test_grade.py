"""Extrapolation grades: maxvol on known matrices, and what grades mean for structures."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mtp import MTPCalculator, grade
from mtp.geometry import Geometry
from mtp.grade import (
    START,
    TOLERANCE,
    ActiveSet,
    build_grading,
    grade_atoms,
    mean_rows,
    most_telling,
)
from mtp.potential import Potential
from mtp.structure import Structure
from tests.potentials import random_potential

rng = np.random.default_rng(0)


def fitted(rows: np.ndarray, chunk: int = 1000, start: float = 1e-6) -> ActiveSet:
    """The set of all rows, read in chunks until nothing changes."""
    active = ActiveSet(rows.shape[1], start)
    while any([active.update(rows[k : k + chunk]) for k in range(0, len(rows), chunk)]):
        pass
    return active


# --- maxvol ---------------------------------------------------------------------------------------


def test_the_largest_rows_of_a_diagonal_matrix() -> None:
    rows = np.concatenate([np.diag([1.0, 2.0, 3.0]), np.diag([4.0, 1.0, 0.5])])
    active = fitted(rows)
    assert np.array_equal(np.sort(np.abs(active.rows).max(axis=0)), [2, 3, 4])
    np.testing.assert_allclose(active.grades(rows), [1 / 4, 1, 1, 1, 1 / 2, 1 / 6])


def test_corners_of_a_square() -> None:
    """Of points in a plane, with a column of ones, the set is the largest triangle."""
    points = np.array([[x, y] for x in range(5) for y in range(5)], float)
    rows = np.c_[np.ones(25), points]
    active = fitted(rows)
    assert abs(np.linalg.det(active.rows)) == pytest.approx(16)  # twice its area
    assert active.grades(np.array([[1, 2, 2.0]]))[0] <= 1
    assert active.grades(np.array([[1, 40, 2.0]]))[0] > 5


@pytest.mark.parametrize("seed", range(5))
def test_volume_against_all_choices(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(12, 4))
    best = max(abs(np.linalg.det(rows[list(c)])) for c in combinations(range(12), 4))
    active = fitted(rows)
    volume = abs(np.linalg.det(active.rows))
    assert best / 2 < volume <= best * (1 + 1e-12)
    assert active.grades(rows).max() <= TOLERANCE  # no single swap enlarges it
    assert all((row == rows).all(axis=1).any() for row in active.rows)


@pytest.mark.parametrize("chunk", [1, 7, 500])
def test_chunks_of_any_size(chunk: int) -> None:
    rows = rng.normal(size=(500, 10)) * np.logspace(0, -3, 10)
    active = fitted(rows, chunk)
    assert active.grades(rows).max() <= TOLERANCE
    np.testing.assert_allclose(active.inverse @ active.rows, np.eye(10), atol=1e-9)


def test_grades_do_not_depend_on_the_coordinates() -> None:
    rows, others = rng.normal(size=(200, 6)), 3 * rng.normal(size=(50, 6))
    turn = rng.normal(size=(6, 6))
    plain = fitted(rows, start=1e-9)
    turned = ActiveSet.of_inverse(np.linalg.inv(plain.rows @ turn))
    assert not turned.update(rows @ turn)
    np.testing.assert_allclose(turned.grades(others @ turn), plain.grades(others), rtol=1e-8)


def test_dependent_columns() -> None:
    """A column that is the sum of two others changes nothing but the direction it leaves out."""
    rows = rng.normal(size=(300, 4))
    double = np.c_[rows, rows[:, 0] + rows[:, 1]]
    active = fitted(double, start=1e-3)
    grades = active.grades(double)
    assert np.isfinite(active.inverse).all()
    assert grades.max() <= TOLERANCE
    off = double[:1] + 0.1 * np.array([[1, 1, 0, 0, -1.0]]) / np.sqrt(3)
    assert active.grades(off)[0] > 10


def test_sources_of_the_rows() -> None:
    active = ActiveSet(2)
    assert active.update(np.eye(2), source=1)
    assert active.update(np.array([[5.0, 0], [0, 0.1]]), source=2)
    assert not active.update(np.array([[0.5, 0.5]]), source=3)
    assert sorted(active.sources) == [1, 2]


# --- of atoms and structures ----------------------------------------------------------------------


def structure(atoms: Atoms) -> Structure:
    return Structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def rattled(seed: int, size: float = 0.1, repeat: int = 2) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.0, cubic=True) * (repeat, 1, 1)
    atoms.rattle(size, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def graded() -> Potential:
    """A random potential with the active sets of rattled salt; it knows oxygen too."""
    potential = random_potential((8, 11, 17))
    frames = [structure(rattled(seed)) for seed in range(40)]
    potential.grading = build_grading(potential, Geometry(frames, (8, 11, 17), 5.0))
    return potential


def grades(potential: Potential, *atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Of all atoms, and of the structures as wholes."""
    frames = [structure(one) for one in atoms]
    batch = Geometry(frames, potential.spec.species, potential.spec.cutoff).batch()
    invariants, species = potential.invariants(batch).numpy(), batch.species.numpy()
    wholes = potential.grading.of_structures(
        invariants, species, batch.structure.numpy(), batch.n_structures
    )
    return grade_atoms(potential, batch), wholes


def test_training_atoms_are_not_extrapolated(graded: Potential) -> None:
    atoms, wholes = grades(graded, *(rattled(seed) for seed in range(40)))
    assert atoms.max() <= TOLERANCE * 1.0001
    assert wholes.max() <= TOLERANCE * 1.0001


def test_others_of_the_kind_are_hardly_and_strange_ones_far(graded: Potential) -> None:
    same, _ = grades(graded, *(rattled(seed) for seed in range(100, 120)))
    assert np.quantile(same, 0.9) < 2
    compressed = rattled(7)
    compressed.set_cell(compressed.cell * 0.85, scale_atoms=True)
    assert grades(graded, compressed)[0].min() > 2
    assert grades(graded, compressed)[1][0] > 10
    hot = rattled(7, size=0.5)
    assert np.median(grades(graded, hot)[0]) > 2
    alone = Atoms("Na", cell=[20, 20, 20], pbc=True)
    assert grades(graded, alone)[0][0] > 2


def test_species_without_training_atoms(graded: Potential) -> None:
    atoms = rattled(3)
    atoms.numbers[0] = 8
    assert grades(graded, atoms)[0][0] > 1 / START


def test_size_and_orientation_do_not_matter(graded: Potential) -> None:
    atoms = rattled(200)
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    one, two, four = (grades(graded, a)[0] for a in (atoms, turned, atoms * (1, 2, 2)))
    np.testing.assert_allclose(two, one, rtol=1e-8)
    np.testing.assert_allclose(four, np.tile(one, 4), rtol=1e-8)
    _, wholes = grades(graded, atoms, turned, atoms * (1, 2, 2))
    np.testing.assert_allclose(wholes, wholes[0], rtol=1e-8)


def test_means_over_structures() -> None:
    rows = np.array([[1.0, 2], [3, 4], [10, 20]])
    means, there = mean_rows(rows, np.array([0, 0, 2]), 4)
    np.testing.assert_array_equal(means, [[2, 3], [10, 20]])
    np.testing.assert_array_equal(there, [0, 2])


def test_columns_that_tell_the_others() -> None:
    """Of columns that two others make up, the two are kept; few columns are all kept."""
    base = rng.normal(size=(500, 3))
    rows = np.c_[base[:, 0], 0.5 * (base[:, 0] + base[:, 1]), base[:, 1], base[:, 2], base[:, 2]]
    rows /= rows.std(axis=0)
    correlation = rows.T @ rows / len(rows)
    kept = most_telling(correlation, 3)
    left = rows - rows[:, kept] @ np.linalg.lstsq(rows[:, kept], rows, rcond=None)[0]
    assert np.abs(left).max() < 1e-10
    np.testing.assert_array_equal(most_telling(correlation, 5), np.arange(5))
    np.testing.assert_array_equal(most_telling(np.eye(4), 2), [0, 1])


def test_invariants_that_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are zeros in the file, cost nothing, and training atoms are still interpolated."""
    monkeypatch.setattr(grade, "MOST", 6)
    potential = random_potential((11, 17))
    frames = [structure(rattled(seed)) for seed in range(40)]
    potential.grading = build_grading(potential, Geometry(frames, (11, 17), 5.0))
    used = potential.grading.neighbourhood.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(used, [6, 6])
    atoms, wholes = grades(potential, *(rattled(seed) for seed in range(40)))
    assert atoms.max() <= TOLERANCE * 1.0001
    assert wholes.max() <= TOLERANCE * 1.0001
    atoms = rattled(300, size=0.4)
    calculator = MTPCalculator(potential, grade=True)
    np.testing.assert_allclose(
        calculator.get_property("grades", atoms), grades(potential, atoms)[0], rtol=1e-9
    )
