"""The TorchSim model against the calculator, on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from mtp import MTPCalculator
from mtp.errors import InvalidInput
from tests.potentials import disordered, random_potential

torch_sim = pytest.importorskip(
    "torch_sim", reason="TorchSim is not installed: mtp-train[torchsim]"
)
SPECIES = (8, 14)


def model(**changes):
    from mtp.torchsim import TorchSimModel

    return TorchSimModel(random_potential(SPECIES), **changes)


def state(*atoms: Atoms):
    return torch_sim.io.atoms_to_state(list(atoms), torch.device("cpu"), torch.float64)


def by_calculator(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    atoms = atoms.copy()
    atoms.calc = MTPCalculator(random_potential(SPECIES), device="cpu")
    return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)


def assert_agrees(found: dict, systems: list[Atoms]) -> None:
    energies, forces, stresses = zip(*map(by_calculator, systems), strict=True)
    np.testing.assert_allclose(found["energy"], energies, rtol=1e-10)
    np.testing.assert_allclose(found["forces"], np.concatenate(forces), atol=1e-10)
    np.testing.assert_allclose(found["stress"], np.stack(stresses), atol=1e-12)


def test_systems_of_different_sizes_at_once() -> None:
    systems = [disordered(SPECIES), disordered(SPECIES, 1).repeat((2, 1, 1)), disordered((14,), 2)]
    systems[1].positions += systems[1].cell.array.sum(0)  # outside the cell
    assert_agrees(model()(state(*systems)), systems)


def test_the_list_follows_atoms_and_cells() -> None:
    """Kept within the skin, found again beyond it and when a cell changes."""
    own, atoms = model(skin=0.4), disordered(SPECIES)
    own(state(atoms))
    first = own._list
    atoms.positions[0] += 0.1
    assert_agrees(own(state(atoms)), [atoms])
    assert own._list is first
    atoms.positions[3] += 0.3
    assert_agrees(own(state(atoms)), [atoms])
    assert own._list is not first
    atoms.set_cell(1.02 * atoms.cell.array, scale_atoms=True)
    assert_agrees(own(state(atoms)), [atoms])


def test_torchsim_finds_the_model_sound() -> None:
    from torch_sim.models.interface import validate_model_outputs

    from mtp.torchsim import TorchSimModel

    own = TorchSimModel(random_potential((14, 26)))
    validate_model_outputs(own, torch.device("cpu"), torch.float64)


def test_unknown_elements_are_refused() -> None:
    with pytest.raises(InvalidInput, match="does not know"):
        model()(state(disordered((29,))))
