"""The ASE calculator: derivatives, symmetries, odd cells, its neighbour list, dynamics."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, make_supercell, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from numpy.testing import assert_allclose

from mtp import MTPCalculator
from mtp.errors import InvalidInput
from mtp.potential import Potential
from tests.potentials import disordered, random_potential

SILICON = Path(__file__).parents[1] / "reference" / "silicon.mtp"
SPECIES = (8, 14)
STEP = 4e-5  # of the finite differences, whose error is of its fourth power


@pytest.fixture(scope="module", params=[(), (6, 6)], ids=["linear", "neural"])
def potential(request: pytest.FixtureRequest) -> Potential:
    return random_potential(SPECIES, hidden=request.param)


def evaluated(atoms: Atoms, potential: Potential, **options) -> Atoms:
    """A copy with a calculator of its own."""
    atoms = atoms.copy()
    atoms.calc = MTPCalculator(potential, **options)
    return atoms


def structures() -> dict[str, Atoms]:
    """Every kind of cell and periodicity."""
    periodic = disordered(SPECIES)
    left = periodic.copy()
    left.set_cell(left.cell.array[[1, 0, 2]])
    sheared = periodic.copy()
    sheared.set_cell(sheared.cell.array + np.array([[0, 0, 0], [3, 0, 0], [2, -2.5, 0]]))
    slab = periodic.copy()
    slab.pbc = (True, True, False)
    wire = periodic.copy()
    wire.pbc = (False, True, False)
    cluster = Atoms(periodic.numbers, periodic.positions)
    tiny = Atoms("Si", cell=[[0, 1.9, 1.9], [2.0, 0, 1.9], [1.9, 1.9, 0]], pbc=True)
    return {
        "periodic": periodic,
        "left-handed": left,
        "triclinic": sheared,
        "slab": slab,
        "wire": wire,
        "cluster": cluster,
        "one atom, tiny cell": tiny,
    }


def slope(value, step: float) -> float:
    """Derivative at 0 by the five-point formula."""
    far, near = value(2 * step) - value(-2 * step), value(step) - value(-step)
    return (8 * near - far) / (12 * step)


@pytest.mark.parametrize("name", structures())
def test_forces_are_slopes_of_the_energy(
    name: str, potential: Potential, rng: np.random.Generator
) -> None:
    atoms = evaluated(structures()[name], potential)
    at, forces = atoms.positions.copy(), atoms.get_forces()
    direction = rng.standard_normal(at.shape)

    def energy(step: float) -> float:
        atoms.positions = at + step * direction
        return atoms.get_potential_energy()

    assert_allclose((forces * direction).sum(), -slope(energy, STEP), rtol=0, atol=1e-6)
    for k in range(3):
        direction = np.zeros_like(at)
        direction[-1, k] = 1
        assert_allclose(forces[-1, k], -slope(energy, STEP), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["periodic", "left-handed", "triclinic", "one atom, tiny cell"])
def test_stress_is_the_slope_along_strain(name: str, potential: Potential) -> None:
    atoms = evaluated(structures()[name], potential)
    cell, volume = atoms.cell.array.copy(), atoms.get_volume()
    stress = atoms.get_stress(voigt=False)

    def energy(step: float, a: int, b: int) -> float:
        strain = np.eye(3)
        strain[a, b] += step / 2
        strain[b, a] += step / 2
        atoms.set_cell(cell @ strain, scale_atoms=True)
        return atoms.get_potential_energy()

    for a in range(3):
        for b in range(a + 1):
            by_strain = slope(lambda step, a=a, b=b: energy(step, a, b), STEP) / volume
            assert_allclose(stress[a, b], by_strain, rtol=1e-7, atol=1e-6)


def test_energies_add_up(potential: Potential) -> None:
    atoms = evaluated(disordered(SPECIES), potential)
    assert_allclose(atoms.get_potential_energies().sum(), atoms.get_potential_energy(), rtol=1e-14)
    assert atoms.calc.results["free_energy"] == atoms.calc.results["energy"]


@pytest.mark.parametrize("pbc", [False, (True, True, False), (True, False, False)])
def test_stress_needs_three_periodic_directions(pbc, potential: Potential) -> None:
    atoms = disordered(SPECIES)
    atoms.pbc = pbc
    atoms = evaluated(atoms, potential)
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_isolated_atoms_have_their_shift(potential: Potential) -> None:
    shifts = potential.heads["default"].shifts.detach().numpy()
    for pbc in (False, True):
        atoms = evaluated(Atoms("OSi", [[0, 0, 0], [0, 0, 9.0]], cell=[20] * 3, pbc=pbc), potential)
        assert_allclose(atoms.get_forces(), 0, atol=0)
        assert_allclose(atoms.get_potential_energies(), shifts, rtol=1e-14)


def test_no_atoms_at_all(potential: Potential) -> None:
    atoms = evaluated(Atoms(cell=[5] * 3, pbc=True), potential)
    assert atoms.get_potential_energy() == 0
    assert atoms.get_forces().shape == (0, 3)


@pytest.mark.parametrize(
    "transform", [np.diag([3, 1, 1]), np.diag([2, 2, 2]), [[1, 1, 0], [0, 1, 0], [0, 1, 2]]]
)
@pytest.mark.parametrize("name", ["periodic", "one atom, tiny cell"])
def test_supercells_repeat_the_cell(transform, name: str, potential: Potential) -> None:
    one = evaluated(structures()[name], potential)
    many = evaluated(make_supercell(structures()[name], transform), potential)
    copies = len(many) // len(one)
    assert_allclose(many.get_potential_energy(), copies * one.get_potential_energy(), rtol=1e-12)
    assert_allclose(many.get_stress(), one.get_stress(), atol=1e-12)
    forces = many.get_forces().reshape(copies, len(one), 3)
    assert_allclose(forces, np.broadcast_to(one.get_forces(), forces.shape), atol=1e-11)


def test_order_of_the_cell_vectors_does_not_matter(potential: Potential) -> None:
    right = evaluated(structures()["periodic"], potential)
    left = evaluated(structures()["left-handed"], potential)
    assert np.linalg.det(left.cell.array) < 0 < np.linalg.det(right.cell.array)
    assert_allclose(left.get_forces(), right.get_forces(), atol=1e-12)
    assert_allclose(left.get_stress(), right.get_stress(), atol=1e-13)


def test_open_direction_equals_a_wide_vacuum(potential: Potential) -> None:
    slab = fcc111("Si", (2, 2, 3), a=4.2)
    slab.numbers[::3] = 8
    slab.rattle(0.1, seed=0)
    padded = slab.copy()
    padded.center(vacuum=10, axis=2)
    padded.pbc = True
    slab.pbc = (True, True, False)
    slab.positions[:, 2] -= 30  # an open direction has no home cell
    assert_allclose(
        evaluated(slab, potential).get_forces(),
        evaluated(padded, potential).get_forces(),
        atol=1e-11,
    )


def test_rotation(potential: Potential, rng: np.random.Generator) -> None:
    atoms = evaluated(disordered(SPECIES), potential)
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    for q in (rotation, -rotation):  # one proper, one improper
        turned = disordered(SPECIES)
        turned.set_cell(turned.cell.array @ q.T)
        turned.positions = turned.positions @ q.T
        turned = evaluated(turned, potential)
        assert_allclose(turned.get_potential_energy(), atoms.get_potential_energy(), rtol=1e-13)
        assert_allclose(turned.get_forces(), atoms.get_forces() @ q.T, atol=1e-11)
        expected = q @ atoms.get_stress(voigt=False) @ q.T
        assert_allclose(turned.get_stress(voigt=False), expected, atol=1e-12)


def test_permutation_and_translation(potential: Potential, rng: np.random.Generator) -> None:
    atoms = evaluated(disordered(SPECIES), potential)
    order = rng.permutation(len(atoms))
    moved = disordered(SPECIES)[order]
    moved.positions += rng.uniform(-20, 20, 3)
    moved.positions += rng.integers(-2, 3, moved.positions.shape) @ moved.cell.array
    moved = evaluated(moved, potential)
    energies = atoms.get_potential_energies()[order]
    assert_allclose(moved.get_potential_energies(), energies, rtol=1e-11)
    assert_allclose(moved.get_forces(), atoms.get_forces()[order], atol=1e-10)


# --- neighbour list -----------------------------------------------------------------------------


def test_skin_changes_nothing_but_the_number_of_lists(
    potential: Potential, rng: np.random.Generator
) -> None:
    with_skin = evaluated(disordered(SPECIES), potential, skin=0.6)
    without = evaluated(disordered(SPECIES), potential, skin=0)
    for _ in range(12):
        step = rng.uniform(-0.06, 0.06, with_skin.positions.shape)
        for atoms in (with_skin, without):
            atoms.positions += step
        assert_allclose(with_skin.get_forces(), without.get_forces(), atol=1e-11)
        assert_allclose(with_skin.get_stress(), without.get_stress(), atol=1e-12)
    assert 1 < with_skin.calc.list.builds < without.calc.list.builds == 12


def test_list_is_found_again_when_it_must(potential: Potential) -> None:
    atoms = evaluated(disordered(SPECIES), potential)

    def builds() -> int:
        atoms.get_forces()
        fresh = evaluated(atoms, potential)
        assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-11)
        return atoms.calc.list.builds

    assert builds() == 1
    atoms.positions[0, 0] += 0.24  # less than half the skin
    assert builds() == 1
    atoms.positions[0, 1] += 0.2
    assert builds() == 2
    atoms.set_cell(1.01 * atoms.cell.array)  # the list follows the cell
    assert builds() == 2
    atoms.set_cell(0.7 * atoms.cell.array, scale_atoms=True)
    assert builds() == 3
    atoms.pbc = (True, True, False)
    assert builds() == 4
    atoms.numbers = atoms.numbers[::-1]
    assert builds() == 4
    del atoms[0]
    assert builds() == 5


# --- with ASE -----------------------------------------------------------------------------------


def thermal_silicon(temperature: float) -> Atoms:
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(0)
    speed = np.sqrt(units.kB * temperature / atoms.get_masses())[:, None]
    atoms.set_velocities(speed * rng.standard_normal(atoms.positions.shape))
    Stationary(atoms)
    atoms.calc = MTPCalculator(SILICON)
    return atoms


def test_dynamics_conserve_energy() -> None:
    """64 atoms, 600 K, 200 steps of 1 fs: drift far below the exchange with the potential."""
    atoms = thermal_silicon(600)
    totals, kinetic = [], []

    def note() -> None:
        totals.append(atoms.get_total_energy() / len(atoms))
        kinetic.append(atoms.get_kinetic_energy() / len(atoms))

    dynamics = VelocityVerlet(atoms, timestep=units.fs)
    dynamics.attach(note)
    dynamics.run(200)
    half = len(totals) // 2
    drift = abs(np.mean(totals[half:]) - np.mean(totals[:half]))
    exchanged = np.ptp(kinetic)
    print(f"drift {1e6 * drift:.2f} µeV/atom, exchanged {1e3 * exchanged:.1f} meV/atom")
    assert exchanged > 10e-3
    assert drift < 20e-6
    assert np.ptp(totals) < 0.02 * exchanged
    assert atoms.calc.list.builds < 50


def test_thermostat_and_cell_relaxation() -> None:
    atoms = thermal_silicon(300)
    friction = 0.02 / units.fs
    rng = np.random.default_rng(0)
    Langevin(atoms, units.fs, temperature_K=300, friction=friction, rng=rng, fixcm=False).run(10)
    assert np.isfinite(atoms.positions).all()
    strained = bulk("Si", cubic=True)
    strained.set_cell(strained.cell.array * [1.03, 0.99, 1.0], scale_atoms=True)
    strained.rattle(0.05, seed=0)
    strained.calc = MTPCalculator(SILICON)
    before = strained.get_potential_energy()
    assert BFGS(FrechetCellFilter(strained), logfile=None).run(fmax=1e-3, steps=100)
    assert strained.get_potential_energy() < before
    assert_allclose(strained.get_stress(), 0, atol=1e-4)


def test_float32_is_close_and_leaves_the_model_alone(potential: Potential) -> None:
    atoms = disordered(SPECIES)
    exact, single = evaluated(atoms, potential), evaluated(atoms, potential, dtype="float32")
    scale = np.abs(exact.get_forces()).max()
    assert_allclose(single.get_forces(), exact.get_forces(), atol=2e-5 * scale)
    assert (single.get_forces() != exact.get_forces()).any()
    assert {p.dtype for p in potential.parameters()} == {exact.calc.dtype}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_pickle_and_copy(dtype: str, potential: Potential) -> None:
    atoms = evaluated(disordered(SPECIES), potential, dtype=dtype)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    for again in (pickle.loads(pickle.dumps(atoms)), copy.deepcopy(atoms)):
        again.calc.reset()
        assert again.get_potential_energy() == energy
        assert (again.get_forces() == forces).all()
        again.positions[0] += 0.1
        assert again.get_potential_energy() != energy
    assert atoms.get_potential_energy() == energy


# --- bad input ----------------------------------------------------------------------------------


def test_unknown_element(potential: Potential) -> None:
    with pytest.raises(InvalidInput, match=r"element C, H is not in the potential.* knows O, Si"):
        evaluated(molecule("CH3CH2OH"), potential).get_potential_energy()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype must be one of float64, float32, got 'float16'"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"skin": -0.1}, "skin must be 0 or more Å, got -0.1"),
        ({"skin": float("nan")}, "skin must be 0 or more Å, got nan"),
        ({"head": "pbe"}, "head must be one of default of this potential: it has no 'pbe'"),
    ],
)
def test_options_are_checked(options: dict, message: str, potential: Potential) -> None:
    with pytest.raises(InvalidInput, match=message):
        MTPCalculator(potential, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_exploded_positions(value: float, potential: Potential) -> None:
    atoms = evaluated(disordered(SPECIES), potential)
    atoms.get_potential_energy()
    atoms.positions[3, 1] = value
    with pytest.raises(InvalidInput, match="positions or cell are not finite"):
        atoms.get_potential_energy()


def test_coinciding_atoms(potential: Potential) -> None:
    atoms = evaluated(Atoms("Si2", np.zeros((2, 3))), potential)
    with pytest.raises(InvalidInput, match="not finite: atoms coincide"):
        atoms.get_potential_energy()
