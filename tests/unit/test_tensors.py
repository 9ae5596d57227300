"""Dipoles and polarizabilities as physics: symmetries, sums, gradients, linear rows, kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mtp.errors import InvalidInput
from mtp.potential import HeadSpec, Potential
from mtp.rebuild import rebuilt
from mtp.structure import VOIGT, Structure
from mtp.terms import PREDICTED
from tests.potentials import random_potential
from tests.systems import CUTOFF, MIN_DIST, SYSTEMS, elements, geometry, random_rotation

HEADS = {
    "dipole": HeadSpec("t", "dipole", level=10),
    "gated dipole": HeadSpec("t", "dipole", (5, 5), level=8, timestep=True),
    "polarizability": HeadSpec("t", "polarizability", level=10),
    "gated polarizability": HeadSpec("t", "polarizability", (5,), activation="silu"),
    "embedded": HeadSpec("t", "polarizability", (4, 4), embedded=True),
}
SYMMETRIC = ["molecule", "triclinic", "left-handed", "slab", "five species"]


@pytest.fixture(params=list(HEADS))
def head(request) -> HeadSpec:
    """Each kind of tensor head; a new kind is tested by being listed."""
    return HEADS[request.param]


def made(head: HeadSpec, *structures: Structure) -> Potential:
    shape = {"cutoff": CUTOFF, "min_dist": MIN_DIST, "n_q": 3}
    return random_potential(elements(*structures), heads=(HeadSpec("energy"), head), **shape)


def predict(potential: Potential, *structures: Structure) -> tuple[np.ndarray, np.ndarray]:
    """The tensors of the structures and of their atoms."""
    batch = geometry(list(structures), potential.spec.species, potential.dtype).batch()
    values = potential.predict(batch, "t").values
    return tuple(values[term].numpy() for term in PREDICTED[potential.spec.head("t").kind])


def turned(rows: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Vectors or Voigt tensors, turned by q."""
    if rows.shape[1] == 3:
        return rows @ q.T
    i, j = np.transpose(VOIGT)
    full = np.empty((len(rows), 3, 3))
    full[:, i, j] = full[:, j, i] = rows
    return (q @ full @ q.T)[:, i, j]


def assert_near(actual, expected, relative: float = 1e-10) -> None:
    size = np.abs(expected).max()
    assert size > 1e-3
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * size)


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize("name", SYMMETRIC)
def test_tensors_turn_with_the_structure(head, name: str, determinant: int, rng) -> None:
    structure, q = SYSTEMS[name], random_rotation(rng, determinant)
    potential = made(head, structure)
    moved = replace(structure, positions=structure.positions @ q.T, cell=structure.cell @ q.T)
    for before, after in zip(predict(potential, structure), predict(potential, moved), strict=True):
        assert_near(after, turned(before, q))


@pytest.mark.parametrize("name", SYMMETRIC)
def test_translation_and_permutation(head, name: str, rng) -> None:
    structure = SYSTEMS[name]
    order = rng.permutation(len(structure))
    changed = replace(
        structure,
        numbers=structure.numbers[order],
        positions=structure.positions[order] + [0.4, -7.0, 2.2],
    )
    potential = made(head, structure)
    (whole, atoms), (whole2, atoms2) = predict(potential, structure), predict(potential, changed)
    assert_near(whole2, whole)
    assert_near(atoms2, atoms[order])


def test_separated_molecules_add_up(head) -> None:
    one = SYSTEMS["molecule"]
    two = replace(one, positions=one.positions @ np.diag([1, -1, 1.05]) + [30.0, 0, 0])
    both = replace(
        one,
        numbers=np.concatenate([one.numbers, two.numbers]),
        positions=np.concatenate([one.positions, two.positions]),
    )
    potential = made(head, one)
    apart, atoms = predict(potential, one, two)
    together, their_atoms = predict(potential, both)
    assert_near(together[0], apart.sum(0))
    assert_near(their_atoms, atoms)
    assert_near(apart, np.stack([atoms[: len(one)].sum(0), atoms[len(one) :].sum(0)]))


def test_isolated_atoms_have_their_shift(head) -> None:
    potential = made(head, SYSTEMS["no pairs"])
    _, atoms = predict(potential, SYSTEMS["no pairs"])
    if head.kind == "dipole":
        assert not atoms.any()
        return
    shifts = potential.heads["t"].shifts.detach().numpy()
    expected = np.outer(shifts[[1, 0, 1]], [1, 1, 1, 0, 0, 0])  # Si O Si, species ascending
    np.testing.assert_allclose(atoms, expected, rtol=0, atol=1e-12)


def test_centrosymmetric_atoms_have_no_dipole() -> None:
    potential = made(HEADS["dipole"], SYSTEMS["axis"])
    line = replace(SYSTEMS["axis"], numbers=np.array([14, 8, 8]))
    _, atoms = predict(potential, line)
    assert np.abs(atoms[0]).max() < 1e-12 < np.abs(atoms[1]).max()


def test_only_selected_species_contribute(head) -> None:
    structure = SYSTEMS["molecule"]  # O H H C H
    potential = made(head, structure)
    few = made(replace(head, species=(6, 8)), structure)
    few.load_state_dict(potential.state_dict())
    (_, all_atoms), (whole, atoms) = predict(potential, structure), predict(few, structure)
    chosen = np.isin(structure.numbers, (6, 8))
    assert_near(atoms[chosen], all_atoms[chosen])
    assert not atoms[~chosen].any()
    assert_near(whole[0], atoms.sum(0))


def cotangents(potential: Potential, batch, rng) -> dict[str, Tensor]:
    return {
        term: torch.from_numpy(rng.normal(size=tuple(values.shape)))
        for term, values in potential.predict(batch, "t").values.items()
    }


def test_gradient_by_finite_differences_of_every_parameter(head, rng) -> None:
    structures = [SYSTEMS["molecule"], SYSTEMS["some without pairs"]]
    potential = made(head, *structures)
    batch = geometry(structures, potential.spec.species).batch()
    slopes = cotangents(potential, batch, rng)

    def loss() -> float:
        values = potential.predict(batch, "t").values
        return float(sum((slopes[term] * values[term]).sum() for term in slopes))

    potential.backward(batch, "t", slopes)
    for name, parameter in potential.named_parameters():
        if name.startswith("heads.energy"):
            assert parameter.grad is None
            continue
        along = torch.from_numpy(rng.normal(size=tuple(parameter.shape)))
        along *= parameter.detach().abs().mean()
        slope = float((parameter.grad * along).sum())
        values, step = parameter.data.clone(), 1e-5
        parameter.data = values + step * along
        up = loss()
        parameter.data = values - step * along
        down = loss()
        parameter.data = values
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-7), name


def test_gradients_add_up_and_frozen_parameters_get_none(rng) -> None:
    structure = SYSTEMS["molecule"]
    potential = made(HEADS["polarizability"], structure)
    batch = geometry([structure], potential.spec.species).batch()
    slopes = cotangents(potential, batch, rng)
    potential.radial.requires_grad_(False)
    potential.backward(batch, "t", slopes)
    once = potential.heads["t"].shifts.grad.clone()
    potential.backward(batch, "t", slopes)
    torch.testing.assert_close(potential.heads["t"].shifts.grad, 2 * once)
    assert potential.radial.grad is None
    potential.heads["t"].requires_grad_(False)
    potential.backward(batch, "t", slopes)


def test_linear_rows_are_the_derivatives_by_the_last_weights(head) -> None:
    structures = [SYSTEMS["molecule"], SYSTEMS["five species"]]
    potential = made(head, *structures)
    batch = geometry(structures, potential.spec.species).batch()
    module = potential.heads["t"]
    rows = potential.linear_rows(batch, "t", shifts=True)
    solution = module.last.weight.detach().flatten()
    if module.shifts is not None:
        solution = torch.cat([solution, module.shifts.detach()])
    predicted = potential.predict(batch, "t").values
    assert rows.keys() == predicted.keys()
    for term, values in predicted.items():
        torch.testing.assert_close(rows[term] @ solution, values, rtol=1e-12, atol=1e-12)
    without = potential.linear_rows(batch, "t")
    for term, values in without.items():
        torch.testing.assert_close(values, rows[term][..., : values.shape[-1]])
        assert values.shape[-1] == module.last.weight.numel()


def test_kernels_and_dtypes_agree(head, monkeypatch, rng) -> None:
    structures = [SYSTEMS["molecule"], SYSTEMS["two species"]]
    potential = made(head, *structures)
    results = {}
    for kernel, dtype in (("cpu", "float64"), ("reference", "float64"), ("cpu", "float32")):
        monkeypatch.setenv("MTP_KERNEL", kernel)
        mine = Potential(potential.spec)
        mine.load_state_dict(potential.state_dict())
        mine.cast(getattr(torch, dtype))
        batch = geometry(structures, potential.spec.species, mine.dtype).batch()
        values = mine.predict(batch, "t").values
        assert {v.dtype for v in values.values()} == {torch.float64}
        mine.backward(batch, "t", {t: torch.ones_like(v) for t, v in values.items()})
        results[kernel, dtype] = [*values.values(), mine.radial.grad.double()]
    first, *others = results.values()
    for other, relative in zip(others, (1e-11, 2e-4), strict=True):
        for one, two in zip(first, other, strict=True):
            assert_near(two.numpy(), one.numpy(), relative)


def test_levels_above_the_descriptors_own_bring_their_radial_functions() -> None:
    structure = SYSTEMS["molecule"]
    rich = made(replace(HEADS["dipole"], level=14), structure)
    assert rich.table.n_radial == 2
    assert rich.radial.shape[2] == rich.tables["t"].n_radial == 3
    poor = random_potential(rich.spec.species, cutoff=CUTOFF, min_dist=MIN_DIST, n_q=3)
    poor.radial.data, poor.radial_scale = rich.radial.data[:, :, :2], rich.radial_scale
    poor.heads["default"].load_state_dict(rich.heads["energy"].state_dict())
    batch = geometry([structure], rich.spec.species).batch()
    ours, theirs = rich.predict(batch, "energy"), poor.predict(batch)
    torch.testing.assert_close(ours.forces, theirs.forces)
    rich.backward(batch, "energy", ours.values)
    poor.backward(batch, "default", ours.values)
    torch.testing.assert_close(rich.radial.grad[:, :, :2], poor.radial.grad)
    assert not rich.radial.grad[:, :, 2:].any()


def test_radial_functions_that_a_new_head_brings_can_move(rng) -> None:
    structure = SYSTEMS["molecule"]
    old = made(HEADS["polarizability"], structure)
    heads = (*old.spec.heads, HeadSpec("rich", "dipole", level=14))
    new = rebuilt(old, replace(old.spec, heads=heads), {"energy": "energy", "t": "t"})
    batch = geometry([structure], old.spec.species).batch()
    for head in ("energy", "t"):
        for term, values in old.predict(batch, head).values.items():
            torch.testing.assert_close(new.predict(batch, head).values[term], values)
    rows = new.linear_rows(batch, "rich")["atomic_dipole"]
    assert (rows.abs().amax((0, 1)) > 0).all()


def test_a_level_without_covariants_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no covariants of rank 1"):
        made(replace(HEADS["dipole"], level=2), SYSTEMS["molecule"])
