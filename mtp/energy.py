"""Energy heads of a potential: energies, forces, stresses and the gradient of a loss of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtp.basis.graphs import graphs
from mtp.basis.moment_table import MomentTable, moment_table
from mtp.geometry import Batch
from mtp.heads import EnergyHead, add_to_gradient
from mtp.kernels import operator
from mtp.kernels.choose import Basis
from mtp.prediction import Prediction, per_species, per_structure
from mtp.terms import PREDICTED
from mtp.type_embedding import TypeEmbedding

if TYPE_CHECKING:
    from mtp.potential import HeadSpec, Potential, PotentialSpec


def table(spec: PotentialSpec, head: HeadSpec) -> MomentTable:
    """Invariants of the potential's level."""
    return moment_table(spec.moments)


def module(spec: PotentialSpec, head: HeadSpec, embedding: TypeEmbedding | None) -> EnergyHead:
    """The head as a module."""
    return EnergyHead(
        *(len(spec.species), len(graphs(spec.moments)), head.hidden),
        *(head.activation, head.timestep, embedding),
    )


@torch.no_grad()
def predict(potential: Potential, batch: Batch, head: str) -> Prediction:
    """Energy, forces and stress."""
    readout, kernel = potential.heads[head], potential.kernel
    c = potential.coefficients_for(potential.table)
    if kernel.reads_out:
        energies, force, virial = kernel.predict(c, readout.readout(), batch.pairs)
        energies -= readout.offset()[batch.species.long()]
    else:
        energies, force, virial = _predict(potential, batch, readout, c)
    energies = energies.double() + readout.shifts[batch.species.long()]
    values = {
        "energy": per_structure(energies, batch),
        "forces": force.double(),
        "stress": per_structure(virial.double(), batch) * _inverse_volume(batch)[:, None],
    }
    return Prediction(values, energies)


def _predict(
    potential: Potential, batch: Batch, readout: EnergyHead, c: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    b = operator.invariants(c, batch.pairs, potential.basis)
    with torch.enable_grad():
        b.requires_grad_()
        energies = readout(b, batch.species)
        (b_bar,) = torch.autograd.grad(energies.sum(), b)
    return energies.detach(), *operator.forces(b_bar, c, batch.pairs, potential.basis)


def backward(potential: Potential, batch: Batch, head: str, cotangents: dict[str, Tensor]) -> None:
    """Source: docs/theory.md, "Training gradient"."""
    d_energy, d_forces, d_stress = (cotangents[term] for term in PREDICTED["energy"])
    shear = d_stress.new_full((6,), 0.5)
    shear[:3] = 1.0
    strain = (d_stress * shear * _inverse_volume(batch)[:, None])[batch.structure]
    weight, v = d_energy[batch.structure], d_forces.to(potential.dtype)
    readout, strain = potential.heads[head], strain.to(potential.dtype)
    by_species = per_species(weight, batch, len(readout.shifts))
    add_to_gradient(readout.shifts, by_species)
    c = potential.coefficients_for(potential.table)
    if potential.kernel.reads_out:
        c_bar, weights_bar = potential.kernel.loss_gradient(
            c.detach(), readout.readout(), weight, v, strain, batch.pairs
        )
        potential.add_to_coefficients(c_bar)
        readout.add_gradient(weights_bar, by_species)
        return
    b, b_dot = operator.tangent(c, v, strain, batch.pairs, potential.basis)
    if not b.requires_grad:  # the descriptor is frozen
        b.requires_grad_()
    energies = readout(b, batch.species)
    (slope,) = torch.autograd.grad(energies.sum(), b, create_graph=True)
    ((weight * energies).sum() + (slope * b_dot).double().sum()).backward()


@torch.no_grad()
def fit_scale(potential: Potential, batch: Batch, head: str) -> None:
    """By typical forces, or without forces by the spread of energies per atom."""
    readout = potential.heads[head]
    readout.scale.fill_(1.0)
    predicted = potential.predict(batch, head)
    labelled = batch.labelled_rows("forces")
    if labelled.any():
        size = batch.labels["forces"][labelled].square().mean().sqrt()
        random = predicted.forces.square().mean().sqrt()
    else:
        per_atom = batch.labels["energy"] / batch.atoms_per_structure
        per_atom = per_atom[batch.present["energy"]]
        size = per_atom.std(unbiased=False) if len(per_atom) else torch.ones(())
        random = (predicted.energy / batch.atoms_per_structure).std(unbiased=False)
    readout.scale.fill_(max(float(size), 1e-3) / max(float(random), 1e-12))


@torch.no_grad()
def linear_rows(
    potential: Potential, batch: Batch, head: str, shifts: bool, network: bool
) -> dict[str, Tensor]:
    """energy (S, n), forces (atoms, 3, n), stress (S, 6, n)."""
    readout, c = potential.heads[head], potential.coefficients_for(potential.table)
    linear = readout.linear or not network
    derivatives = _linear_columns if linear else _network_columns
    features, forces, virial = derivatives(readout, c, batch, potential.basis)
    rows = {
        "energy": per_structure(features.double(), batch),
        "forces": forces.double(),
        "stress": per_structure(virial.double(), batch) * _inverse_volume(batch)[:, None, None],
    }
    return _with_shifts(rows, batch, len(potential.spec.species)) if shifts else rows


def _linear_columns(
    readout: EnergyHead, c: Tensor, batch: Batch, basis: Basis
) -> tuple[Tensor, Tensor, Tensor]:
    """Features (atoms, n), and their forces (atoms, 3, n) and virials (atoms, 6, n)."""
    b, forces, virial = operator.columns(c, batch.pairs, basis)
    unit = readout.linear_unit().to(b.dtype)
    return b * unit, forces * unit, virial * unit


def _network_columns(
    readout: EnergyHead, c: Tensor, batch: Batch, basis: Basis
) -> tuple[Tensor, Tensor, Tensor]:
    """The same where the features are not proportional to the invariants: a pass for each."""
    b = operator.invariants(c, batch.pairs, basis)
    with torch.enable_grad():
        b.requires_grad_()
        features = readout.features(b, batch.species)
    found = []
    for column in torch.eye(features.shape[1], dtype=b.dtype, device=b.device):
        seed = column.expand_as(features).contiguous()
        (b_bar,) = torch.autograd.grad(features, b, seed, retain_graph=True)
        found.append(operator.forces(b_bar, c, batch.pairs, basis))
    forces, virial = (torch.stack(parts, -1) for parts in zip(*found, strict=True))
    return features.detach(), forces, virial


def _with_shifts(rows: dict[str, Tensor], batch: Batch, species: int) -> dict[str, Tensor]:
    """Append one column per species: atoms of it in the energy, nothing in forces and stress."""
    found = {
        term: torch.cat([values, values.new_zeros(*values.shape[:-1], species)], -1)
        for term, values in rows.items()
    }
    counts = found["energy"][:, -species:]
    atoms = (batch.structure, batch.species.long())
    counts.index_put_(atoms, counts.new_ones(()), accumulate=True)
    return found


def _inverse_volume(batch: Batch) -> Tensor:
    return torch.where(batch.volume > 0, 1 / batch.volume, 0.0)
