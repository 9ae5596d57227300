"""A committee: means of its members, and their disagreement as the formula says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mtp import MTPCalculator
from mtp.committee import CommitteeCalculator
from mtp.errors import InvalidInput
from tests.potentials import disordered, random_potential

SPECIES = (8, 14)


def test_means_and_deviations() -> None:
    members = [random_potential(SPECIES, seed=seed) for seed in range(3)]
    atoms = disordered(SPECIES)
    single = []
    for member in members:
        atoms.calc = MTPCalculator(member)
        single.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    energy, forces, stress = (np.array(part) for part in zip(*single, strict=True))
    atoms.calc = CommitteeCalculator(members)
    assert_allclose(atoms.get_potential_energy(), energy.mean(), rtol=1e-12)
    assert_allclose(atoms.get_forces(), forces.mean(axis=0), atol=1e-12)
    assert_allclose(atoms.get_stress(), stress.mean(axis=0), atol=1e-12)
    spread = np.sqrt(forces.var(axis=0).sum(axis=1))
    assert_allclose(atoms.calc.get_property("deviations", atoms), spread, rtol=1e-10)
    assert atoms.calc.get_property("deviation", atoms) == pytest.approx(spread.max())
    assert_allclose(
        atoms.calc.get_property("energy_deviation", atoms), energy.std() / len(atoms), rtol=1e-10
    )


def test_members_that_agree() -> None:
    member = random_potential(SPECIES)
    atoms = disordered(SPECIES)
    atoms.calc = CommitteeCalculator([member, member])
    for shift in (0.0, 0.01, 2.0):  # the shared neighbour list follows
        atoms.positions[0] += shift
        assert atoms.calc.get_property("deviation", atoms) < 1e-12


def test_members_with_different_cutoffs() -> None:
    members = [random_potential(SPECIES, cutoff=cutoff) for cutoff in (4.0, 5.0)]
    atoms = disordered(SPECIES)
    atoms.calc = CommitteeCalculator(members)
    mean = atoms.get_potential_energy()
    alone = []
    for member in members:
        atoms.calc = MTPCalculator(member)
        alone.append(atoms.get_potential_energy())
    assert mean == pytest.approx(np.mean(alone), rel=1e-12)


def test_one_is_no_committee() -> None:
    with pytest.raises(InvalidInput, match="two or more models, got 1"):
        CommitteeCalculator([random_potential(SPECIES)])
