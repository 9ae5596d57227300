"""Extrapolation grades in the calculator, the model file and the C++ kernel."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.testing import assert_allclose
from safetensors.torch import load_file, save_file

from mtp import MTPCalculator, load_model, save_model
from mtp.errors import InvalidInput
from mtp.geometry import Geometry
from mtp.grade import build_grading, grade_atoms
from mtp.kernels.inference import NativeModel, find_neighbours
from mtp.potential import Potential
from mtp.structure import Structure
from tests.potentials import disordered, random_potential

SPECIES = (8, 14)


def structure(atoms: Atoms) -> Structure:
    return Structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


@pytest.fixture(scope="module", params=[(), (6, 6)], ids=["linear", "neural"])
def graded(request: pytest.FixtureRequest) -> Potential:
    potential = random_potential(SPECIES, hidden=request.param)
    frames = [structure(disordered(SPECIES, seed)) for seed in range(30)]
    potential.grading = build_grading(potential, Geometry(frames, SPECIES, 5.0))
    return potential


def expected(potential: Potential, atoms: Atoms) -> np.ndarray:
    batch = Geometry([structure(atoms)], SPECIES, potential.spec.cutoff).batch()
    return grade_atoms(potential, batch)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_calculator(graded: Potential, dtype: str) -> None:
    atoms = disordered(SPECIES, seed=77) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    atoms.calc = MTPCalculator(graded, dtype=dtype)
    wanted = expected(graded, atoms)
    assert wanted.max() > 1
    forces = atoms.get_forces()
    assert "grades" not in atoms.calc.results  # nobody asked
    relative = 1e-10 if dtype == "float64" else 1e-3
    assert_allclose(atoms.calc.get_property("grades", atoms), wanted, rtol=relative)
    assert atoms.calc.get_property("grade", atoms) == pytest.approx(wanted.max(), rel=relative)
    assert_allclose(atoms.get_forces(), forces, atol=1e-12)
    atoms.calc = MTPCalculator(graded, dtype=dtype, grade=True)
    atoms.get_forces()
    assert_allclose(atoms.calc.results["grades"], wanted, rtol=relative)


def test_other_kernel(graded: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = disordered(SPECIES, seed=5)
    wanted = expected(graded, atoms)
    monkeypatch.setenv("MTP_KERNEL", "reference")
    calculator = MTPCalculator(graded, grade=True)
    assert_allclose(calculator.get_property("grades", atoms), wanted, rtol=1e-9)


def test_model_file(graded: Potential, tmp_path: Path) -> None:
    """Written, read by Python and by the library; copies and pickles keep it."""
    save_model(tmp_path / "model", graded)
    atoms = disordered(SPECIES, seed=9)
    wanted = expected(graded, atoms)
    calculator = MTPCalculator(tmp_path / "model", grade=True)
    for one in (calculator, copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        assert_allclose(one.get_property("grades", atoms), wanted, rtol=1e-12)
    native = NativeModel.load(tmp_path / "model")
    assert native.graded
    near, species = find_neighbours(atoms, native.cutoff), np.searchsorted(SPECIES, atoms.numbers)
    given = (near, species.astype(np.int32), atoms.positions, False)
    assert_allclose(native.compute(*given, grades=True).grades, wanted, rtol=1e-10)
    assert native.compute(*given).grades is None


def test_a_model_without(graded: Potential, tmp_path: Path) -> None:
    plain = random_potential(SPECIES)
    save_model(tmp_path / "model", plain)
    assert load_model(tmp_path / "model").grading is None
    native, atoms = NativeModel.load(tmp_path / "model"), disordered(SPECIES)
    assert not native.graded
    species = np.searchsorted(SPECIES, atoms.numbers).astype(np.int32)
    near = find_neighbours(atoms, native.cutoff)
    with pytest.raises(InvalidInput, match="no active set"):
        native.compute(near, species, atoms.positions, False, grades=True)
    with pytest.raises(PropertyNotImplementedError):
        MTPCalculator(plain).get_property("grade", atoms)
    with pytest.raises(InvalidInput, match="the model has no active sets"):
        MTPCalculator(plain, grade=True)


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_damaged_files(graded: Potential, damage: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    save_model(tmp_path / "model", graded)
    tensors = load_file(tmp_path / "model")
    with safe_open(tmp_path / "model", "pt") as file:
        metadata = file.metadata()
    if damage == "missing":
        del tensors["grade.mean"]
    else:
        tensors["grade.neighbourhood"] = torch.zeros(2, 3, 3, dtype=torch.float64)
    save_file(tensors, tmp_path / "model", metadata)
    for load in (load_model, NativeModel.load):
        with pytest.raises(
            InvalidInput, match=r"damaged model file: tensor grade\..* (missing|wrong)"
        ):
            load(tmp_path / "model")
