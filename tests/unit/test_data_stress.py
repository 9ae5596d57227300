"""The check of the stress against the energies catches a wrong sign and never cries wolf."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from numpy.testing import assert_allclose

from mtp.data import check_stress, read
from mtp.data.stress_sign import near_pairs
from mtp.structure import Structure

SHARED = Path(__file__).parents[3] / "shared" / "data"
WITH_STRESS = [
    "alcuni/train.xyz.gz", "cupd/train.xyz.gz", "ec_emc/train.xyz.gz", "fe_afm/train.xyz.gz",
    "li3n/train.xyz", "liti2o4/train.xyz.gz", "mapbi3_scan/train.xyz.gz", "mgo/train.xyz.gz",
    "mlearn/Cu/train.xyz.gz", "mlearn/Li/train.xyz.gz", "mlearn/Mo/train.xyz.gz",
    "nbmotaw/test.xyz.gz", "phonon_rd/NaCl_train.xyz.gz", "si_xc/LDA.xyz.gz",
    "universal/test.xyz.gz", "universal/mptrj_highest_stress.xyz.gz",
]  # fmt: skip


def scaled(items: list[Structure], factor: float) -> list[Structure]:
    return [i if i.stress is None else replace(i, stress=factor * i.stress) for i in items]


def argon(rng: np.random.Generator, strain: float, move: float, count: int = 8) -> list[Structure]:
    """Strained, rattled and turned cells of an exactly known potential."""
    found = []
    for index in range(count):
        atoms = bulk("Ar", "fcc", a=5.1, cubic=True)
        deformation = np.eye(3) + strain * rng.uniform(-1, 1, (3, 3))
        atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        atoms.positions += move * rng.uniform(-1, 1, (4, 3))
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=9.0, smooth=True)
        found.append(
            Structure(
                atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc,
                atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(),
                source="argon", index=index,
            )
        )  # fmt: skip
    return found


def test_work_equals_the_energy_difference(rng) -> None:
    """The trapezoid's error is of third order: halving strain and movement divides it by 8."""
    errors = []
    for size in (0.008, 0.004):
        generator = np.random.default_rng(5)
        said, seen = np.array(list(near_pairs(argon(generator, size, 4 * size)))).T
        assert len(said) == 28
        assert_allclose(said, seen, rtol=0.1, atol=0.05 * np.abs(seen).max())
        errors.append(np.abs(said - seen).max())
    assert errors[1] < errors[0] / 6


def test_wrong_sign_and_unit(rng) -> None:
    items = argon(rng, 0.02, 0.02)
    assert check_stress(items) == []
    assert "stress looks sign-flipped" in check_stress(scaled(items, -1))[0]
    assert "times 0.00" in check_stress(scaled(items, 160.2))[0]
    unlabelled = [replace(item, forces=None) for item in items]
    assert check_stress(scaled(unlabelled, -1)) == []  # atoms moved: nothing can be said


def test_silicon(demo) -> None:
    items = read(demo / "train.xyz.gz")
    assert check_stress(items) == []
    assert "sign-flipped" in check_stress(scaled(items, -1))[0]
    (vasp,) = check_stress(scaled(items, -1602.1766))
    assert "sign-flipped" in vasp
    assert "wrong by a factor, 0.0006" in vasp
    ((cell, _),) = Counter(item.cell.tobytes() for item in items).most_common(1)
    alike = [item for item in items if item.cell.tobytes() == cell]  # energies say nothing
    assert len(alike) > 5
    assert check_stress(alike) == []
    (size,) = check_stress(scaled(alike, 1602.2))
    assert "its median size is" in size


def test_copper() -> None:
    items = shared("mlearn/Cu/train.xyz.gz")
    assert check_stress(items) == []
    assert "sign-flipped" in check_stress(scaled(items, -1))[0]


@pytest.mark.parametrize("name", WITH_STRESS)
def test_right_signs_raise_no_warning(name) -> None:
    assert check_stress(shared(name)) == []


def shared(name: str) -> list[Structure]:
    if not (SHARED / name).exists():
        pytest.skip(f"reference data {name} are not on this machine")
    return read(SHARED / name)
