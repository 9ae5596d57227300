"""Lists and dynamics that stay on the GPU, against vesin and ASE; interpreted without a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units
from ase.geometry import complete_cell
from ase.md.verlet import VelocityVerlet

from mtp import MTPCalculator
from mtp.errors import InvalidInput
from mtp.geometry import neighbour_pairs
from mtp.structure import Structure
from tests.kernels.on_device import ON_GPU
from tests.potentials import disordered, random_potential
from tests.systems import SYSTEMS
from tests.tape import TapedGraph, noting

pytestmark = pytest.mark.triton
SPECIES = (8, 14)
DEVICE = torch.device("cuda" if ON_GPU else "cpu")


def listed(structure: Structure, cutoff: float, skin: float = 0.3):
    from mtp.device_list import DeviceList

    species = torch.zeros(len(structure), dtype=torch.int32, device=DEVICE)
    return DeviceList(species, complete_cell(structure.cell), structure.pbc, cutoff, skin)


def rows(centre, neighbour, d) -> np.ndarray:
    """Pairs as sorted rows (centre, neighbour, x, y, z)."""
    table = np.column_stack([centre, neighbour, np.round(d, 6) + 0.0])
    return table[np.lexsort(table.T[::-1])]


@pytest.mark.parametrize("name", ["molecule", "bulk", "left-handed", "tiny cell", "slab"])
def test_lists_hold_the_pairs_of_vesin(name: str) -> None:
    structure = SYSTEMS[name]
    x = torch.from_numpy(structure.positions.copy()).to(DEVICE)
    if structure.pbc.all():  # some atoms outside the cell
        x += (
            torch.arange(len(x), device=DEVICE)[:, None]
            % 3
            * torch.from_numpy(structure.cell.sum(0)).to(DEVICE)
        )
    own = listed(structure, 4.0)
    own.build(x)
    pairs = own.pairs(x, torch.float64)
    at, centre, neighbour = pairs.explicit()
    d = pairs.displacement[at]
    count, j, vectors = neighbour_pairs(structure, 4.3)
    wanted = rows(np.repeat(np.arange(len(structure)), count), j, vectors)
    np.testing.assert_allclose(
        rows(*(x.cpu().numpy() for x in (centre, neighbour, d))), wanted, atol=2e-6
    )
    torch.testing.assert_close(pairs.displacement[pairs.incoming[at]], -d)


def test_lists_grow_when_atoms_crowd() -> None:
    structure = SYSTEMS["bulk"]
    own = listed(structure, 4.0)
    few = own.places
    own._make_room(5)
    own.build(torch.from_numpy(structure.positions).to(DEVICE))
    assert 5 < own.places <= 2 * few
    assert int(own.count.sum()) == len(neighbour_pairs(structure, 4.3)[1])


def moving():
    """Disordered atoms with velocities."""
    atoms = disordered(SPECIES)
    atoms.set_velocities(np.random.default_rng(0).normal(0, 0.02, (len(atoms), 3)))
    return atoms


def potential():
    return random_potential(SPECIES, (6, 2, 4, 1), cutoff=3.5, min_dist=1.4).to(DEVICE)


def test_trajectory_is_that_of_ase() -> None:
    from mtp.device_md import DeviceDynamics

    own = DeviceDynamics(potential(), moving(), timestep=1.0, skin=0.1)
    own.interval = 16  # too long: the first steps are done again
    own.run(12)
    atoms = moving()
    atoms.calc = MTPCalculator(random_potential(SPECIES, (6, 2, 4, 1), cutoff=3.5, min_dist=1.4))
    VelocityVerlet(atoms, 1.0 * units.fs).run(12)
    found = moving()
    own.write(found)
    away = np.linalg.solve(atoms.cell.array.T, (found.positions - atoms.positions).T)
    np.testing.assert_allclose(away - np.round(away), 0, atol=1e-10)
    np.testing.assert_allclose(found.get_velocities(), atoms.get_velocities(), atol=1e-10)
    assert own.total_energy == pytest.approx(atoms.get_total_energy(), abs=1e-10)
    np.testing.assert_allclose(own.stress.cpu()[0], atoms.get_stress(), atol=1e-12)
    assert own.steps == 12
    assert own.interval < 12 < own.list.builds + 12


@pytest.mark.parametrize("temperature", [None, 300.0])
def test_recorded_steps_are_the_steps(temperature: float | None, monkeypatch) -> None:
    """Also after newer lists and steps done again: a graph reads where arrays were, not are."""
    from mtp import device_list, device_md

    def trajectory(recorded: bool) -> list[torch.Tensor]:
        own = device_md.DeviceDynamics(
            potential(), moving(), timestep=1.0, temperature=temperature, friction=0.1, skin=0.1
        )
        own._records = recorded
        own.interval = 5
        own.run(9)
        assert own.list.builds > 2
        return [own.x, own.v, own.energy, own.stress]

    if not ON_GPU:
        monkeypatch.setattr(device_md, "Graph", TapedGraph)
        monkeypatch.setattr(device_list, "launch", noting(device_list.launch))
        monkeypatch.setenv("MTP_KERNEL", "reference")  # what the C++ kernel does is on no tape
    for one, two in zip(trajectory(True), trajectory(False), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_langevin_dynamics_is_reproducible_and_warms_up() -> None:
    from mtp.device_md import DeviceDynamics

    ends = []
    for _ in range(2):
        cold = disordered(SPECIES)
        own = DeviceDynamics(
            potential(), cold, timestep=1.0, temperature=300.0, friction=0.5, skin=0.3, seed=3
        )
        assert own.temperature == 0
        own.run(6)
        ends.append(own.x.clone())
    assert own.temperature > 50
    assert torch.equal(*ends)


def test_an_explosion_is_said() -> None:
    from mtp.device_md import DeviceDynamics

    atoms = moving()
    atoms.set_velocities(100 * atoms.get_velocities())
    own = DeviceDynamics(potential(), atoms, timestep=5.0, skin=0.1)
    with pytest.raises(InvalidInput, match=r"moved by .* in one step"):
        own.run(3)
