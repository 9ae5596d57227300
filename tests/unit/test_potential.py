"""The potential as physics: symmetries, finite differences, training gradient, linear rows."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mtp.geometry import Batch
from mtp.model_file import load_model, save_model
from mtp.potential import HeadSpec, Potential, PotentialSpec, Prediction
from mtp.structure import VOIGT, Structure
from tests.potentials import SMALL, random_potential
from tests.systems import CUTOFF, MIN_DIST, SYSTEMS, elements, geometry, random_rotation, rattled

POTENTIALS = {
    "linear": {"level": (8, 2, 4, 1), "hidden": ()},
    "small": {"level": SMALL, "hidden": ()},
    "network": {"level": (8, 2, 4, 1), "hidden": (6, 6)},
}
SYMMETRIC = ["molecule", "triclinic", "left-handed", "tiny cell", "slab", "five species"]


@pytest.fixture(params=list(POTENTIALS))
def make(request) -> Callable[..., Potential]:
    """Makes each kind of potential for some structures; a new kind is tested by being listed."""

    def made(*structures: Structure, **changes) -> Potential:
        shape = {"cutoff": CUTOFF, "min_dist": MIN_DIST, **POTENTIALS[request.param], **changes}
        return random_potential(elements(*structures), **shape)

    return made


def predict(potential: Potential, structure: Structure) -> Prediction:
    return potential.predict(geometry([structure], potential.spec.species).batch())


def moved(structure: Structure, matrix: np.ndarray) -> Structure:
    """Positions and cell multiplied by a matrix from the right."""
    return replace(structure, positions=structure.positions @ matrix, cell=structure.cell @ matrix)


def as_matrix(stress: Tensor) -> np.ndarray:
    full = np.zeros((3, 3))
    for k, (a, b) in enumerate(VOIGT):
        full[a, b] = full[b, a] = stress[k]
    return full


def assert_near(actual, expected, relative: float = 1e-10) -> None:
    expected = np.asarray(expected)
    size = max(np.abs(expected).max(initial=0), 1.0)
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=relative * size)


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize("name", SYMMETRIC)
def test_rotation_and_reflection(make, name: str, determinant: int, rng) -> None:
    structure, q = SYSTEMS[name], random_rotation(rng, determinant)
    potential = make(structure)
    before, after = predict(potential, structure), predict(potential, moved(structure, q))
    assert_near(after.energies, before.energies)
    assert_near(after.forces, before.forces.numpy() @ q)
    assert_near(as_matrix(after.stress[0]), q.T @ as_matrix(before.stress[0]) @ q)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_translation_and_permutation(make, name: str, rng) -> None:
    structure = SYSTEMS[name]
    order = rng.permutation(len(structure))
    changed = replace(
        structure,
        numbers=structure.numbers[order],
        positions=structure.positions[order] + [0.4, -7.0, 2.2],
    )
    potential = make(structure)
    before, after = predict(potential, structure), predict(potential, changed)
    assert_near(after.energy, before.energy)
    assert_near(after.energies, before.energies[order])
    assert_near(after.forces, before.forces[order])
    assert_near(after.stress, before.stress)


@pytest.mark.parametrize("name", ["triclinic", "left-handed", "tiny cell"])
def test_supercell(make, name: str) -> None:
    structure = SYSTEMS[name]
    shifts = np.array([[0, 0, 0], structure.cell[1]])
    doubled = replace(
        structure,
        numbers=np.tile(structure.numbers, 2),
        positions=np.concatenate([structure.positions + shift for shift in shifts]),
        cell=structure.cell * np.array([[1], [2], [1]]),
    )
    potential = make(structure)
    one, two = predict(potential, structure), predict(potential, doubled)
    assert_near(two.energy, 2 * one.energy)
    assert_near(two.forces, np.tile(one.forces, (2, 1)))
    assert_near(two.stress, one.stress)


def test_atoms_moved_by_lattice_vectors(make, rng) -> None:
    structure = SYSTEMS["triclinic"]
    shifts = rng.integers(-2, 3, (4, 3)) @ structure.cell
    potential = make(structure)
    one = predict(potential, structure)
    two = predict(potential, replace(structure, positions=structure.positions + shifts))
    assert_near(two.energies, one.energies)
    assert_near(two.forces, one.forces)


@pytest.mark.parametrize("name", [n for n in SYSTEMS if n not in ("isolated atom", "no pairs")])
def test_forces_by_finite_differences(make, name: str) -> None:
    structure, step = SYSTEMS[name], 1e-5
    potential = make(structure)
    forces = predict(potential, structure).forces.numpy()
    for atom, axis in ((0, 0), (len(structure) - 1, 1), (len(structure) // 2, 2)):
        energy = []
        for shift in (step, -step):
            positions = structure.positions.copy()
            positions[atom, axis] += shift
            energy.append(predict(potential, replace(structure, positions=positions)).energy.item())
        numeric = -(energy[0] - energy[1]) / (2 * step)
        assert forces[atom, axis] == pytest.approx(
            numeric, rel=1e-6, abs=1e-6 * max(1, abs(forces).max())
        )


@pytest.mark.parametrize("name", ["triclinic", "left-handed", "tiny cell", "five species"])
def test_stress_by_finite_differences(make, name: str) -> None:
    structure, step = SYSTEMS[name], 1e-5
    potential = make(structure)
    stress = predict(potential, structure).stress[0].numpy()
    numeric = np.zeros(6)
    for k, (a, b) in enumerate(VOIGT):
        strain = np.zeros((3, 3))
        strain[a, b] += step / 2
        strain[b, a] += step / 2
        up, down = (
            predict(potential, moved(structure, np.eye(3) + s)).energy.item()
            for s in (strain, -strain)
        )
        numeric[k] = (up - down) / (2 * step * structure.volume)
    assert_near(stress, numeric, 1e-6)


def test_forces_and_torques_of_a_molecule_vanish(make) -> None:
    structure = SYSTEMS["molecule"]
    forces = predict(make(structure), structure).forces.numpy()
    assert_near(forces.sum(0), np.zeros(3), 1e-10 * np.abs(forces).max())
    torque = np.cross(structure.positions, forces).sum(0)
    assert_near(torque, np.zeros(3), 1e-10 * np.abs(forces).max())


def test_an_isolated_atom_has_its_shift(make) -> None:
    structure = SYSTEMS["isolated atom"]
    potential = make(structure)
    predicted = predict(potential, structure)
    assert_near(predicted.energy, potential.heads["default"].shifts.detach(), 1e-14)
    assert not predicted.forces.any()
    assert not predicted.stress.any()


def test_no_stress_without_a_volume(make) -> None:
    structure = SYSTEMS["slab"]
    assert not predict(make(structure), structure).stress.any()


def test_energy_goes_to_nothing_smoothly_at_the_cutoff(make) -> None:
    structure = SYSTEMS["dimer"]
    potential = make(structure)

    def at(r: float) -> Prediction:
        return predict(potential, replace(structure, positions=np.array([[0, 0, 0], [r, 0, 0.0]])))

    apart, inside = at(CUTOFF + 0.1), at(CUTOFF - 1e-4)
    assert abs(inside.energy - apart.energy) < 1e-6 * max(1, abs(apart.energy))
    assert at(CUTOFF).forces.abs().max() == 0
    assert inside.forces.abs().max() < 1e-2
    assert at(3.0).forces.abs().max() > 1e-4


# --- training gradient ----------------------------------------------------------------------------


def loss(potential: Potential, batch: Batch, cotangents: dict[str, Tensor]) -> float:
    values = potential.predict(batch).values
    return float(sum((c * values[term]).sum() for term, c in cotangents.items()))


def cotangents_of(batch: Batch) -> dict[str, Tensor]:
    return {term: torch.randn_like(label) for term, label in batch.labels.items()}


def test_backward_by_finite_differences(make) -> None:
    """Every kind of parameter, for a loss of energies, forces and stresses."""
    structures = [SYSTEMS[n] for n in ("two species", "left-handed", "slab", "pair below min_dist")]
    potential, batch = make(*structures), geometry(structures).batch()
    cotangents = cotangents_of(batch)
    potential.backward(batch, "default", cotangents)
    for name, parameter in potential.named_parameters():
        before, direction = parameter.data.clone(), torch.randn_like(parameter.data)

        def change(
            steps: int, size: float = 1e-6, at=parameter, start=before, along=direction
        ) -> float:
            at.data.copy_(start + steps * size * along)
            up = loss(potential, batch, cotangents)
            at.data.copy_(start - steps * size * along)
            return (up - loss(potential, batch, cotangents)) / (2 * steps * size)

        numeric = (4 * change(1) - change(2)) / 3
        parameter.data.copy_(before)
        slope = float((parameter.grad * direction).sum())
        assert slope == pytest.approx(numeric, rel=1e-6), name
        assert slope != 0, name


def test_backward_adds_to_gradients_and_batches_add_up(make) -> None:
    structures = [SYSTEMS[n] for n in ("two species", "left-handed", "slab")]
    potential, whole = make(*structures), geometry(structures)
    batch = whole.batch()
    cotangents = cotangents_of(batch)
    potential.backward(batch, "default", cotangents)
    together = [p.grad.clone() for p in potential.parameters()]
    potential.zero_grad()
    for k in range(3):
        own = batch.structure == k
        mine = {t: c[own] if t == "forces" else c[[k]] for t, c in cotangents.items()}
        potential.backward(whole.batch([k]), "default", mine)
    for parts, expected in zip(potential.parameters(), together, strict=True):
        assert_near(parts.grad, expected, 1e-11)


def test_order_of_a_batch_does_not_matter(make) -> None:
    structures = [SYSTEMS[n] for n in ("molecule", "left-handed", "isolated atom", "slab")]
    potential, whole = make(*structures), geometry(structures)
    one, two = (
        potential.predict(whole.batch([0, 1, 2, 3])),
        potential.predict(whole.batch([3, 1, 0, 2])),
    )
    assert_near(two.energy, one.energy[[3, 1, 0, 2]], 1e-13)
    assert_near(two.stress, one.stress[[3, 1, 0, 2]], 1e-13)


# --- linear rows ----------------------------------------------------------------------------------


def test_linear_rows_times_the_weights_are_the_prediction(make) -> None:
    structures = [SYSTEMS[n] for n in ("two species", "left-handed", "slab", "isolated atom")]
    potential, batch = make(*structures), geometry(structures).batch()
    head = potential.heads["default"]
    with torch.no_grad():
        head.shifts.zero_()
    weights = head.last.weight[0].detach()
    predicted = potential.predict(batch)
    for term, rows in potential.linear_rows(batch, "default").items():
        assert_near(rows @ weights, predicted.values[term])


# --- precision and heads --------------------------------------------------------------------------


def test_single_precision_is_close_and_keeps_shifts_exact(make) -> None:
    structure = rattled([8, 14], seed=5)
    potential = make(structure)
    exact = predict(potential, structure)
    shifts = potential.heads["default"].shifts.detach().clone()
    potential.cast(torch.float32)
    rough = potential.predict(geometry([structure], dtype=torch.float32).batch())
    assert torch.equal(potential.heads["default"].shifts.detach(), shifts)
    assert rough.energy.dtype == rough.energies.dtype == torch.float64
    assert_near(rough.energies, exact.energies, 2e-5)
    assert_near(rough.forces, exact.forces, 2e-5)


def test_a_pickled_potential_works_in_another_process(tmp_path) -> None:
    """A basis has another handle there: something else was registered first."""
    potential = random_potential((14,), SMALL)
    expected = predict(potential, SYSTEMS["bulk"])
    (tmp_path / "potential").write_bytes(pickle.dumps(potential))
    program = (
        "import pickle, sys; from tests.potentials import random_potential; "
        "from tests.systems import SYSTEMS, geometry; "
        "random_potential((8, 14)).predict(geometry([SYSTEMS['two species']]).batch()); "
        "potential = pickle.load(open(sys.argv[1], 'rb')); "
        "predicted = potential.predict(geometry([SYSTEMS['bulk']]).batch()); "
        "print(float(predicted.energy[0]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "potential")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == float(expected.energy[0])


def test_groups_hold_every_parameter_once(make) -> None:
    potential = make(SYSTEMS["molecule"])
    grouped = [id(p) for group in potential.groups().values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in potential.parameters())
    assert list(potential.groups()) == [
        (None, "descriptor"),
        ("default", "readout"),
        ("default", "shifts"),
    ]


@pytest.mark.parametrize("name", ["train", "keys", "half", "a-b"])
def test_a_head_may_have_any_name(name: str, tmp_path) -> None:
    """Also that of a method of torch's modules."""
    heads = (HeadSpec(name), HeadSpec("other", hidden=(3,)))
    potential = Potential(PotentialSpec((14,), CUTOFF, MIN_DIST, 4, 4, heads=heads))
    save_model(tmp_path / "model.safetensors", potential.eval())
    again = load_model(tmp_path / "model.safetensors")
    assert again.spec.head_names == (name, "other")
    assert set(again.heads) == {name, "other"}
    assert again.heads[name].linear
    assert {head for head, _ in again.groups()} == {None, name, "other"}
