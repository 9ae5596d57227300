"""Samplers give the structures they promise, the same for the same seed."""

from __future__ import annotations

from itertools import combinations_with_replacement, islice

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.data import covalent_radii
from ase.geometry import get_distances

from mtp.errors import InvalidInput
from pretrained import samplers
from pretrained.samplers.defects import supercell

NACL = bulk("NaCl", "rocksalt", 5.6, cubic=True)
OF_A_CRYSTAL = {
    "rattle": lambda n, seed: samplers.rattle(NACL, n, seed),
    "strain": lambda n, seed: samplers.strain(NACL, n, seed),
    "compress": lambda n, seed: samplers.compress(NACL, n, seed),
    "displace": lambda n, seed: samplers.displace(NACL, n, seed),
    "vacancy": lambda n, seed: samplers.vacancy(NACL, n, seed, most=2),
    "surface": lambda n, seed: samplers.surface(NACL, n, seed),
    "substitution": lambda n, seed: samplers.substitution(NACL, [19, 35], n, seed),
    "random_composition": lambda n, seed: samplers.random_composition(NACL, [3, 9], n, seed),
    "random_structure": lambda n, seed: samplers.random_structure([3, 8, 22], n, seed),
    "cluster": lambda n, seed: samplers.clusters(range(1, 87), n, seed),
}


def same(a: Atoms, b: Atoms) -> bool:
    return (
        np.array_equal(a.numbers, b.numbers)
        and np.array_equal(a.positions, b.positions)
        and np.array_equal(a.cell.array, b.cell.array)
    )


@pytest.mark.parametrize("name", OF_A_CRYSTAL)
def test_seed_decides(name: str) -> None:
    make = OF_A_CRYSTAL[name]
    first, again, other = list(make(6, 1)), list(make(6, 1)), list(make(6, 2))
    assert len(first) == 6
    assert all(map(same, first, again))
    assert not any(map(same, first, other))
    assert {atoms.info["config_type"] for atoms in first} == {name}


@pytest.mark.parametrize("name", sorted(set(OF_A_CRYSTAL) - {"compress"}))
def test_a_structure_does_not_depend_on_how_many_follow(name: str) -> None:
    make = OF_A_CRYSTAL[name]
    assert all(map(same, make(2, 3), make(5, 3)))


def test_the_given_structure_stays_as_it_is() -> None:
    before = NACL.copy()
    for make in OF_A_CRYSTAL.values():
        list(make(2, 0))
    assert same(before, NACL)


def test_strain_keeps_fractional_coordinates() -> None:
    for atoms in samplers.strain(NACL, 3, 0):
        assert np.allclose(atoms.get_scaled_positions(), NACL.get_scaled_positions())
        assert not np.allclose(atoms.cell, NACL.cell)


def test_compression_covers_its_range() -> None:
    lengths = [atoms.cell.lengths()[0] / 5.6 for atoms in samplers.compress(NACL, 10, 0)]
    assert 0.85 <= min(lengths) < 0.9 < 1.1 < max(lengths) <= 1.15


def test_displacement_moves_one_atom() -> None:
    for atoms in samplers.displace(NACL, 5, 0, furthest=0.4):
        moved = np.linalg.norm(atoms.positions - NACL.positions, axis=1)
        assert np.sum(moved > 0) == 1
        assert moved.max() <= 0.4


def test_vacancies_and_surfaces() -> None:
    assert {len(atoms) for atoms in samplers.vacancy(NACL, 20, 0, most=2)} == {6, 7}
    for slab in samplers.surface(NACL, 3, 0, vacuum=8.0):
        height = slab.cell.volume / np.linalg.norm(np.cross(*slab.cell.array[:2]))
        z = slab.positions @ np.cross(*slab.cell.array[:2])
        z /= np.linalg.norm(np.cross(*slab.cell.array[:2]))
        assert height - np.ptp(z) > 14.0


def test_every_pair_of_elements_is_a_dimer() -> None:
    elements = [1, 8, 26, 79]
    found = list(samplers.dimers(elements, 5, 0))
    pairs = {tuple(atoms.numbers) for atoms in found}
    assert pairs == set(combinations_with_replacement(elements, 2))
    lengths = np.array([atoms.positions[1, 2] for atoms in found]).reshape(-1, 5)
    bonds = np.array([covalent_radii[list(pair)].sum() for pair in sorted(pairs)])
    assert np.all(np.diff(lengths, axis=1) > 0)
    assert np.all((lengths[:, 0] > 0.69 * bonds) & (lengths[:, 0] < bonds))
    assert lengths.max() < 6.0


def test_clusters_visit_all_elements_and_keep_apart() -> None:
    found = list(samplers.clusters(range(1, 87), 200, 0, (3, 6), ligands=(1, 8)))
    assert {int(atoms.numbers[0]) for atoms in found} == set(range(1, 87))
    for atoms in found:
        distances = atoms.get_all_distances() + 10 * np.eye(len(atoms))
        radii = covalent_radii[atoms.numbers]
        assert np.all(distances > 0.7 * (radii[:, None] + radii))
        assert 3 <= len(atoms) <= 6


def test_random_structures_have_no_collisions() -> None:
    for atoms in samplers.random_structure([3, 8, 22], 5, 0, closest=0.85):
        _, lengths = get_distances(atoms.positions, cell=atoms.cell, pbc=True)
        radii = covalent_radii[atoms.numbers]
        apart = lengths / (radii[:, None] + radii) + 10 * np.eye(len(atoms))
        assert apart.min() > 0.85


def test_dynamics_is_reproducible() -> None:
    start = bulk("Cu", cubic=True)
    runs = [
        list(samplers.dynamics(start, EMT(), 600.0, 3, seed, every=2, equilibration=2))
        for seed in (0, 0, 1)
    ]
    assert all(map(same, runs[0], runs[1]))
    assert not any(map(same, runs[0], runs[2]))
    assert runs[0][0].info["config_type"] == "md_600K"


def test_supercell_is_nearly_cubic() -> None:
    flat = bulk("Cu", cubic=True)
    flat.set_cell([3.6, 3.6, 7.2], scale_atoms=True)
    assert np.allclose(supercell(flat, 16).cell.lengths(), 7.2)


def test_conformers_and_packed_clusters() -> None:
    pytest.importorskip("rdkit", reason="rdkit is not installed")
    ethanol = list(samplers.conformers("CCO", 3, 0))
    assert all(str(atoms.symbols) == "C2OH6" for atoms in ethanol)
    assert all(map(same, ethanol, samplers.conformers("CCO", 3, 0)))
    cluster = next(islice(samplers.packed(ethanol, 1, 0, (3, 3)), 1))
    between = cluster.get_all_distances()[:9, 9:]
    assert len(cluster) == 27
    assert 1.2 < between.min() < 6.0
    with pytest.raises(InvalidInput, match="SMILES"):
        list(samplers.conformers("C(C", 1, 0))
