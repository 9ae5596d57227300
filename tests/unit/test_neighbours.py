"""Neighbour lists: the library's search against vesin's, odd cells, and when a list is kept."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from numpy.testing import assert_allclose

from mtp.errors import InvalidInput
from mtp.kernels.inference import find_neighbours
from mtp.neighbours import Neighbours, VerletList
from mtp.structure import Structure
from tests.systems import SYSTEMS, rattled


def atoms_of(structure: Structure) -> Atoms:
    return Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)


def pairs(neighbours: Neighbours, positions: np.ndarray) -> np.ndarray:
    """(pairs, 5) centre, neighbour and displacement, in an order of their own."""
    centre = np.repeat(np.arange(len(positions)), neighbours.count)
    other = neighbours.owner[neighbours.neighbour]
    rows = np.column_stack([centre, other, neighbours.displacements(positions)])
    return rows[np.lexsort((*rows[:, :0:-1].round(6).T, rows[:, 0]))]


def assert_same_pairs(atoms: Atoms, cutoff: float) -> Neighbours:
    found, expected = find_neighbours(atoms, cutoff), Neighbours.find(atoms, cutoff)
    np.testing.assert_array_equal(found.count, expected.count)
    assert_allclose(
        pairs(found, atoms.positions), pairs(expected, atoms.positions), rtol=0, atol=1e-9
    )
    np.testing.assert_array_equal(found.owner[: len(atoms)], np.arange(len(atoms)))
    return found


@pytest.mark.parametrize("cutoff", [1.5, 3.3, 4.0, 9.0])
@pytest.mark.parametrize("system", SYSTEMS)
def test_library_finds_what_vesin_finds(system: str, cutoff: float) -> None:
    assert_same_pairs(atoms_of(SYSTEMS[system]), cutoff)


@pytest.mark.parametrize("pbc", list(np.ndindex(2, 2, 2)), ids=str)
def test_every_periodicity_of_a_skewed_cell(pbc: tuple, rng: np.random.Generator) -> None:
    cell = np.array([[4.1, 0.2, -0.3], [1.9, 5.3, 0.4], [-2.2, 1.1, 6.0]])
    for periodic_only in (False, True):
        vectors = cell * np.array(pbc)[:, None] if periodic_only else cell
        positions = rng.uniform(-9, 9, (12, 3))
        assert_same_pairs(Atoms("Si12", positions, cell=vectors, pbc=pbc), 3.7)


def test_atoms_anywhere(rng: np.random.Generator) -> None:
    """Wrapped into the cell, so that atoms far apart do not need many ghosts."""
    atoms = atoms_of(rattled([14], repeat=2))
    near = assert_same_pairs(atoms, 4.0)
    atoms.positions += rng.integers(-9, 9, atoms.positions.shape) @ atoms.cell.array
    assert len(assert_same_pairs(atoms, 4.0).owner) == len(near.owner)


def test_threads_and_a_large_cell() -> None:
    atoms = bulk("Si", cubic=True) * (6, 6, 6)
    atoms.rattle(0.1, seed=0)
    alone = find_neighbours(atoms, 4.0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = find_neighbours(atoms, 4.0)
    finally:
        torch.set_num_threads(before)
    for one, two in zip(vars(alone).values(), vars(together).values(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_few_atoms_far_apart() -> None:
    positions = [[0, 0, 0], [1, 0, 0], [1e7, 1e7, 0], [1e7, 1e7, 1.5], [-1e8, 3, 5]]
    found = find_neighbours(Atoms("Si5", positions), 4.0)
    assert found.count.tolist() == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("pbc", [False, (True, True, False), True])
@pytest.mark.parametrize("width", [3e2, 2e3, 7e3])
def test_wide_and_flat_structures(width: float, pbc) -> None:
    positions = [[0, 0, 0], [1.5, 0, 0], [width, width, 1], [width + 1.5, width, 1]]
    cell = [width * 2, width * 2, 40]
    found = find_neighbours(Atoms("Si4", positions, cell=cell, pbc=pbc), 4.0)
    assert found.count.tolist() == [1, 1, 1, 1]


def test_nothing_at_all() -> None:
    found = find_neighbours(Atoms(cell=[3, 3, 3], pbc=True), 4.0)
    assert len(found.owner) == len(found.count) == len(found.neighbour) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (partial(Atoms.set_cell, cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]]), "cell has no volume"),
        (partial(Atoms.set_cell, cell=np.zeros((3, 3))), "cell has no volume"),
        (partial(Atoms.set_cell, cell=np.full((3, 3), np.nan)), "cell is not finite"),
        (partial(Atoms.set_cell, cell=[1e-4] * 3), "too many periodic images"),
        (partial(Atoms.set_positions, newpositions=np.full((2, 3), np.nan)), "not finite"),
        (partial(Atoms.set_positions, newpositions=np.full((2, 3), 1e300)), "absurdly far away"),
    ],
)
def test_impossible_structures(change, said: str) -> None:
    atoms = Atoms("Si2", [[0, 0, 0], [1, 1, 1]], cell=[3, 3, 3], pbc=True)
    change(atoms)
    with pytest.raises(InvalidInput, match=said):
        find_neighbours(atoms, 4.0)


@pytest.mark.parametrize("find", [Neighbours.find, find_neighbours], ids=["vesin", "library"])
def test_kept_list_holds_every_pair(find, rng: np.random.Generator) -> None:
    """Moves and strains of every size: nothing within the cutoff is ever missing."""
    atoms = atoms_of(rattled([14], repeat=2))
    kept = VerletList(3.5, 0.6, find)
    for _ in range(60):
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
        strain = np.eye(3) + rng.normal(0, 0.004, (3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=bool(rng.integers(4)))
        distances = np.linalg.norm(kept.neighbours(atoms).displacements(atoms.positions), axis=1)
        expected = Neighbours.find(atoms, 3.5).displacements(atoms.positions)
        expected = np.linalg.norm(expected, axis=1)
        assert_allclose(np.sort(distances[distances <= 3.5]), np.sort(expected), atol=1e-9)
    assert 3 < kept.builds < 50
