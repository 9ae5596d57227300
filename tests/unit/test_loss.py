"""Loss terms against numbers made by hand, cotangents against autograd, absent labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mtp.geometry import Geometry
from mtp.potential import Prediction
from stages.loss import Errors, Sums, cotangents, label_counts, weighted_loss
from stages.plan import coefficients
from stages.tasks import TaskData
from tests.training import SPECIES, geometry, potential, structures, task, unlabelled


def partly_labelled(rng):
    frames = structures(rng, 5)
    frames[1] = unlabelled(frames[1], "energy")
    frames[2] = unlabelled(frames[2], "forces", "stress")
    return geometry(frames).batch()


def test_terms_by_hand(rng):
    """Means of |error| and error² over what is labelled, weighted by structure."""
    frames = structures(rng, 2, atoms=(1, 2))
    batch = geometry(frames).batch()
    labels = batch.labels
    moved = torch.tensor([[1.0, 2.0, 3.0], [0, 0, 0], [0, 0, 0]]).double()
    prediction = Prediction(
        {
            "energy": labels["energy"] + torch.tensor([0.1, -0.4]).double(),
            "forces": labels["forces"] + moved,
            "stress": labels["stress"].clone(),
        }
    )
    terms = Sums.of(Errors.of(prediction, batch), task()).means()
    w = np.array([frame.weight for frame in frames])
    assert terms["energy_l1"] == pytest.approx((w @ [0.1, 0.2]) / w.sum())
    assert terms["energy_mse"] == pytest.approx((w @ [0.01, 0.04]) / w.sum())
    assert terms["forces_l1"] == pytest.approx(6 * w[0] / (3 * (w[0] + 2 * w[1])))
    assert terms["forces_mse"] == pytest.approx(14 * w[0] / (3 * (w[0] + 2 * w[1])))
    assert terms["stress_mse"] == 0.0


def test_labels_of_some_elements_only(rng):
    """Means, counts and cotangents are over the atoms that contribute (SPECIES[1])."""
    frames = structures(rng, 4, atoms=(4,))
    frames = [replace(f, atomic_dipole=rng.normal(size=(4, 3)), weight=1.0) for f in frames]
    frames[0] = unlabelled(frames[0], "atomic_dipole")
    terms = ("dipole", "atomic_dipole")
    found = Geometry(frames, SPECIES, 4.0, terms=terms, selected=SPECIES[1:])
    batch = found.batch([3, 0, 1])
    mine = np.concatenate([f.numbers == SPECIES[1] for f in (frames[3], frames[0], frames[1])])
    mine[4:8] = False
    assert 0 < mine.sum() < 8
    guess = {"dipole": torch.zeros(3, 3), "atomic_dipole": torch.zeros(12, 3)}
    errors = Errors.of(Prediction(guess), batch)
    counts = label_counts(batch, terms)
    assert counts.tolist() == [0, 3 * mine.sum()]
    labels = batch.labels["atomic_dipole"][torch.from_numpy(mine)]
    expected = float(labels.abs().mean())
    loss = task(coefficients={"atomic_dipole": 1.0})
    assert Sums.of(errors, loss).means()["atomic_dipole_l1"] == pytest.approx(expected)
    slopes = cotangents(errors, loss, counts)["atomic_dipole"]
    assert (slopes != 0).any(1).numpy().tolist() == mine.tolist()
    everything = TaskData.of(found, Geometry([], SPECIES, 4.0), terms).counts
    assert_close(everything, label_counts(found.batch(), terms))


@pytest.mark.parametrize("kind", ["mse", "l1", "huber"])
@pytest.mark.parametrize("weighting", ["per_atom_squared", "per_atom", "total"])
def test_cotangents_are_derivatives_of_the_loss(rng, kind, weighting):
    batch = partly_labelled(rng)
    plan = task(loss=kind, energy_weighting=weighting, coefficients=coefficients(0.7, 0.2, 30.0))
    guess = potential().predict(batch)
    leaves = {term: value.double().requires_grad_() for term, value in guess.values.items()}
    prediction = Prediction(leaves)
    normaliser = torch.tensor([2.0, 31.0, 0.5]).double()
    errors = Errors.of(prediction, batch)
    value = weighted_loss(Sums.of(errors, plan), normaliser, plan.coefficients)
    expected = torch.autograd.grad(value, leaves.values())
    found = cotangents(errors, plan, normaliser)
    for term, theirs in zip(leaves, expected, strict=True):
        assert_close(found[term], theirs, rtol=1e-13, atol=1e-15)


def test_energy_weighting_is_a_power_of_the_number_of_atoms(rng):
    frames = structures(rng, 1, atoms=(4,))
    batch = geometry(frames).batch()
    prediction = Prediction(batch.labels | {"energy": batch.labels["energy"] + 2})
    errors = Errors.of(prediction, batch)
    losses = {
        weighting: Sums.of(errors, task(energy_weighting=weighting)).loss(coefficients(1, 0, 0))
        for weighting in ("per_atom_squared", "per_atom", "total")
    }
    assert losses == pytest.approx({"per_atom_squared": 4 / 16, "per_atom": 4 / 4, "total": 4})


def test_absent_labels_count_exactly_nothing(rng):
    """Also where the prediction is not a number, as the stress of a frame without volume may be."""
    batch = partly_labelled(rng)
    guess = potential().predict(batch)
    atoms_of_2 = batch.structure == 2
    guess.energy[1] = guess.stress[2] = guess.forces[atoms_of_2] = float("nan")
    errors = Errors.of(guess, batch)
    found = cotangents(errors, task(), label_counts(batch, guess.values))
    assert found["energy"][1] == 0
    assert (found["stress"][2] == 0).all()
    assert (found["forces"][atoms_of_2] == 0).all()
    assert all(np.isfinite(value) for value in Sums.of(errors, task()).means().values())


def test_a_term_without_labels_has_no_key(rng):
    batch = geometry([unlabelled(f, "stress") for f in structures(rng, 3)]).batch()
    sums = Sums.of(Errors.of(potential().predict(batch), batch), task())
    assert set(sums.means()) == {"energy_mse", "energy_l1", "forces_mse", "forces_l1"}
    assert np.isfinite(sums.loss(coefficients(1, 1, 1)))


def test_sums_of_parts_are_the_sum_of_the_whole(rng):
    g = geometry(structures(rng, 5))

    def sums(indices):
        batch = g.batch(indices)
        return Sums.of(Errors.of(potential().predict(batch), batch), task())

    whole, parts = sums(range(5)), sums([3, 1]) + sums([0, 2, 4])
    assert parts.means() == pytest.approx(whole.means(), rel=1e-12)
