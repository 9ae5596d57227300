""".mtp files as potentials: our own as they were, others through the span of their invariants."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mtp.calculator import MTPCalculator
from mtp.errors import InvalidInput
from mtp.mlip_file import MlipPotential, mlip_numbers, write_lines
from mtp.mlip_import import load_mtp
from mtp.potential import Potential
from tests.potentials import SMALL, disordered, random_potential


def forces(potential: Potential, species: tuple[int, ...]) -> np.ndarray:
    atoms = disordered(species)
    atoms.calc = MTPCalculator(potential)
    return atoms.get_forces()


def foreign(numbers: MlipPotential) -> MlipPotential:
    """The same potential in another order of species, moments and invariants, and rescaled.

    The first invariant of several factors becomes its sum with the last one.
    """
    rng = np.random.default_rng(0)
    n_basic, n_species = len(numbers.basic), len(numbers.species)
    order = rng.permutation(n_basic)
    place = np.arange(numbers.n_moments)
    place[order] = np.arange(n_basic)
    products = numbers.products.copy()
    products[:, [0, 1, 3]] = place[products[:, [1, 0, 3]]]
    scalars, coeffs = place[numbers.scalars], numbers.moment_coeffs.copy()
    first = int(np.argmax(scalars >= n_basic))
    extra = products[products[:, 3] == scalars[-1]].copy()
    extra[:, 3] = scalars[first]
    coeffs[-1] -= coeffs[first]
    shuffled, turned = rng.permutation(len(scalars)), np.arange(n_species)[::-1]
    return dataclasses.replace(
        numbers,
        species=numbers.species[::-1],
        scaling=0.5,
        radial=2 * numbers.radial[np.ix_(turned, turned)],
        basic=numbers.basic[order],
        products=np.concatenate([products, extra]),
        scalars=scalars[shuffled],
        shifts=numbers.shifts[::-1],
        moment_coeffs=coeffs[shuffled],
        level=None,
    )


@pytest.mark.parametrize("level", [(8, 2, 4, 1), SMALL, (9, 1, 3, 2)])
def test_our_own_files_come_back(tmp_path: Path, level) -> None:
    potential = random_potential((8, 14), level)
    write_lines(tmp_path / "a.mtp", mlip_numbers(potential))
    loaded = load_mtp(tmp_path / "a.mtp")
    assert loaded.spec == potential.spec
    expected = forces(potential, (8, 14))  # normalisations are folded in: equal but for rounding
    assert_allclose(forces(loaded, (8, 14)), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("level", [6, 8, 12, 16])
def test_other_contractions_give_the_same_forces(tmp_path: Path, level: int) -> None:
    """Level 16 is linearly dependent: coefficients differ, forces do not."""
    potential = random_potential((8, 14), (level, 2, 4, 1))
    write_lines(tmp_path / "a.mtp", foreign(mlip_numbers(potential)))
    loaded = load_mtp(tmp_path / "a.mtp")
    assert loaded.spec == potential.spec
    expected = forces(potential, (8, 14))
    assert_allclose(forces(loaded, (8, 14)), expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_elements_from_labels(tmp_path: Path) -> None:
    """Files whose labels are atomic numbers need no tag."""
    path = tmp_path / "a.mtp"
    write_lines(path, mlip_numbers(random_potential((14,))))
    path.write_text(path.read_text().replace("atomic_numbers 14", "").replace("\t0-0", "\t14-14"))
    assert load_mtp(path).spec.species == (14,)


def test_elements_must_be_known(tmp_path: Path) -> None:
    path = tmp_path / "a.mtp"
    write_lines(path, mlip_numbers(random_potential((14,))))
    path.write_text(path.read_text().replace("atomic_numbers 14", ""))
    with pytest.raises(InvalidInput, match="does not say its elements; name those of its 1 types"):
        load_mtp(path)
    assert load_mtp(path, [22]).spec.species == (22,)
    with pytest.raises(InvalidInput, match="of 1 types needs 1 different elements, got Si, O"):
        load_mtp(path, [14, 8])


def test_given_elements_are_in_the_order_of_types(tmp_path: Path) -> None:
    """Types 0, 1 as Si, O of a file written for O, Si: the potential with them exchanged."""
    path, potential = tmp_path / "a.mtp", random_potential((8, 14))
    write_lines(path, mlip_numbers(potential))
    path.write_text(path.read_text().replace("atomic_numbers 8 14", ""))
    atoms = disordered((8, 14))
    atoms.calc = MTPCalculator(load_mtp(path, [14, 8]))
    found = atoms.get_forces()
    atoms.numbers = 22 - atoms.numbers
    atoms.calc = MTPCalculator(potential)
    assert_allclose(found, atoms.get_forces(), rtol=0, atol=1e-12 * np.abs(found).max())


def test_unknown_basis_is_refused(tmp_path: Path) -> None:
    numbers = mlip_numbers(random_potential((14,), SMALL))
    write_lines(tmp_path / "a.mtp", dataclasses.replace(numbers, level=None))
    with pytest.raises(InvalidInput, match="22 basic moments and 27 invariants are those of no"):
        load_mtp(tmp_path / "a.mtp")


def test_other_invariants_are_refused(tmp_path: Path) -> None:
    """As many as there should be, but one is not invariant."""
    numbers = mlip_numbers(random_potential((14,)))
    component = int(np.argmax(numbers.basic[:, 1] == 1))
    scalars = np.append(numbers.scalars[:-1], component)
    write_lines(tmp_path / "a.mtp", dataclasses.replace(numbers, scalars=scalars))
    with pytest.raises(InvalidInput, match="its invariants are not those of an MTP basis"):
        load_mtp(tmp_path / "a.mtp")
