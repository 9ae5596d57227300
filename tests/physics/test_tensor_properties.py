"""The calculator's dipole and polarizability: values, files, choice of heads, what is missing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError

from mtp import MTPCalculator, load_model, save_model
from mtp.errors import InvalidInput
from mtp.model_file import describe
from mtp.potential import HeadSpec, Potential
from mtp.structure import Structure
from tests.potentials import disordered, random_potential
from tests.systems import geometry, random_rotation

ENERGY = HeadSpec("e", hidden=(4,))
DIPOLE = HeadSpec("mu", "dipole", level=10)
POLAR = HeadSpec("alpha", "polarizability", (4,), species=(8,))


def water() -> Potential:
    return random_potential((1, 8), heads=(ENERGY, DIPOLE, POLAR), min_dist=0.8)


def test_values_are_the_heads() -> None:
    potential, atoms = water(), molecule("H2O")
    atoms.calc = MTPCalculator(potential)
    structure = Structure(atoms.numbers, atoms.positions)
    batch = geometry([structure], (1, 8)).batch()
    np.testing.assert_allclose(
        atoms.get_dipole_moment(), potential.predict(batch, "mu").values["dipole"][0], atol=1e-12
    )
    xx, yy, zz, yz, xz, xy = potential.predict(batch, "alpha").values["polarizability"][0].tolist()
    full = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
    np.testing.assert_allclose(atoms.calc.get_property("polarizability"), full, atol=1e-12)
    assert atoms.get_potential_energy() == pytest.approx(
        float(potential.predict(batch, "e").energy)
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_periodic_cells_turn_with_their_tensors(dtype: str, rng) -> None:
    atoms, q = disordered((1, 8)), random_rotation(rng, -1)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ q.T)
    turned.positions = atoms.positions @ q.T
    atoms.calc = turned.calc = MTPCalculator(water(), dtype=dtype)
    near = {"rtol": 0, "atol": 1e-9 if dtype == "float64" else 1e-2}
    dipole, polarizability = (
        atoms.calc.get_property(name, atoms) for name in ("dipole", "polarizability")
    )
    np.testing.assert_allclose(turned.get_dipole_moment(), q @ dipole, **near)
    again = turned.calc.get_property("polarizability", turned)
    np.testing.assert_allclose(again, q @ polarizability @ q.T, **near)


def test_files_and_pickles_keep_tensor_heads(tmp_path) -> None:
    potential, atoms = water(), molecule("H2O")
    save_model(tmp_path / "model", potential)
    loaded = load_model(tmp_path / "model")
    assert loaded.spec == potential.spec
    state, again = potential.state_dict(), loaded.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    found = describe(tmp_path / "model")
    assert found["head_moments"].keys() == {"mu", "alpha"}
    assert found["tensors"]["tables.mu.scalars"]["shape"] == [33]
    shapes = (parameter.numel() for parameter in potential.parameters())
    assert found["basis"]["parameters"] == sum(shapes)
    values = []
    for calculator in (
        MTPCalculator(tmp_path / "model"),
        pickle.loads(pickle.dumps(MTPCalculator(potential))),
    ):
        values.append([calculator.get_property(n, atoms) for n in ("dipole", "polarizability")])
    for one, two in zip(*values, strict=True):
        np.testing.assert_array_equal(one, two)


def test_other_tables_in_a_file_are_refused(tmp_path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    save_model(tmp_path / "model", water())
    tensors = load_file(tmp_path / "model")
    with safe_open(tmp_path / "model", "pt") as file:
        metadata = file.metadata()
    tensors["tables.mu.products"][0, 2] += 1
    save_file(tensors, tmp_path / "other", metadata)
    with pytest.raises(InvalidInput, match="moment table is not that of"):
        load_model(tmp_path / "other")


def test_heads_that_are_not_there() -> None:
    atoms = molecule("H2O")
    atoms.calc = MTPCalculator(random_potential((1, 8), heads=(DIPOLE,), min_dist=0.8))
    assert atoms.get_dipole_moment().shape == (3,)
    for name in ("energy", "forces", "polarizability"):
        with pytest.raises(PropertyNotImplementedError):
            atoms.calc.get_property(name, atoms)


def test_one_head_of_a_kind_must_be_named() -> None:
    other = HeadSpec("mu2", "dipole")
    potential = random_potential((1, 8), heads=(ENERGY, DIPOLE, other), min_dist=0.8)
    atoms = molecule("H2O")
    calculator = MTPCalculator(potential)
    assert np.isfinite(calculator.get_property("energy", atoms))
    with pytest.raises(InvalidInput, match="dipole: several heads predict it; name one of mu, mu2"):
        calculator.get_property("dipole", atoms)
    first, second = (
        MTPCalculator(potential, head=head).get_property("dipole", atoms)
        for head in ("mu", ["e", "mu2"])
    )
    assert np.abs(first - second).max() > 1e-3
    with pytest.raises(InvalidInput, match="mu and mu2 both predict dipole"):
        MTPCalculator(potential, head=["mu", "mu2"])
    with pytest.raises(InvalidInput, match="it has no 'x'"):
        MTPCalculator(potential, head="x")
