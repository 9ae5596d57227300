"""Loss terms against numbers made by hand, cotangents against autograd, absent labels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from stages.loss import Errors, Sums, cotangents, label_counts, weighted_loss
from stages.plan import Coefficients
from tests.training import geometry, potential, structures, task, unlabelled


def partly_labelled(rng):
    frames = structures(rng, 5)
    frames[1] = unlabelled(frames[1], "energy")
    frames[2] = unlabelled(frames[2], "forces", "stress")
    return geometry(frames).batch()


def test_terms_by_hand(rng):
    """Means of |error| and error² over what is labelled, weighted by structure."""
    frames = structures(rng, 2, atoms=(1, 2))
    batch = geometry(frames).batch()
    prediction = SimpleNamespace(
        energy=batch.energy + torch.tensor([0.1, -0.4]).double(),
        forces=batch.forces + torch.tensor([[1.0, 2.0, 3.0], [0, 0, 0], [0, 0, 0]]).double(),
        stress=batch.stress.clone(),
    )
    terms = Sums.of(Errors.of(prediction, batch), task()).terms()
    w = np.array([frame.weight for frame in frames])
    assert terms["energy_l1"] == pytest.approx((w @ [0.1, 0.2]) / w.sum())
    assert terms["energy_mse"] == pytest.approx((w @ [0.01, 0.04]) / w.sum())
    assert terms["forces_l1"] == pytest.approx(6 * w[0] / (3 * (w[0] + 2 * w[1])))
    assert terms["forces_mse"] == pytest.approx(14 * w[0] / (3 * (w[0] + 2 * w[1])))
    assert terms["stress_mse"] == 0.0


@pytest.mark.parametrize("kind", ["mse", "l1"])
@pytest.mark.parametrize("weighting", ["per_atom_squared", "per_atom", "total"])
def test_cotangents_are_derivatives_of_the_loss(rng, kind, weighting):
    batch = partly_labelled(rng)
    plan = task(loss=kind, energy_weighting=weighting, coefficients=Coefficients(0.7, 0.2, 30.0))
    guess = potential().predict(batch)
    leaves = [getattr(guess, t).double().requires_grad_() for t in ("energy", "forces", "stress")]
    prediction = SimpleNamespace(energy=leaves[0], forces=leaves[1], stress=leaves[2])
    normaliser = torch.tensor([2.0, 31.0, 0.5]).double()
    errors = Errors.of(prediction, batch)
    value = weighted_loss(Sums.of(errors, plan).minimised, normaliser, plan.coefficients)
    expected = torch.autograd.grad(value, leaves)
    for mine, theirs in zip(cotangents(errors, plan, normaliser), expected, strict=True):
        assert_close(mine, theirs, rtol=1e-13, atol=1e-15)


def test_energy_weighting_is_a_power_of_the_number_of_atoms(rng):
    frames = structures(rng, 1, atoms=(4,))
    batch = geometry(frames).batch()
    prediction = SimpleNamespace(energy=batch.energy + 2, forces=batch.forces, stress=batch.stress)
    errors = Errors.of(prediction, batch)
    losses = {
        weighting: Sums.of(errors, task(energy_weighting=weighting)).loss(Coefficients(1, 0, 0))
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
    d_energy, d_forces, d_stress = cotangents(errors, task(), label_counts(batch))
    assert d_energy[1] == 0
    assert (d_stress[2] == 0).all()
    assert (d_forces[atoms_of_2] == 0).all()
    assert all(np.isfinite(value) for value in Sums.of(errors, task()).terms().values())


def test_a_term_without_labels_has_no_key(rng):
    batch = geometry([unlabelled(f, "stress") for f in structures(rng, 3)]).batch()
    sums = Sums.of(Errors.of(potential().predict(batch), batch), task())
    assert set(sums.terms()) == {"energy_mse", "energy_l1", "forces_mse", "forces_l1"}
    assert np.isfinite(sums.loss(Coefficients(1, 1, 1)))


def test_sums_of_parts_are_the_sum_of_the_whole(rng):
    g = geometry(structures(rng, 5))

    def sums(indices):
        batch = g.batch(indices)
        return Sums.of(Errors.of(potential().predict(batch), batch), task())

    whole, parts = sums(range(5)), sums([3, 1]) + sums([0, 2, 4])
    assert parts.terms() == pytest.approx(whole.terms(), rel=1e-12)
