"""Dipole and polarizability heads of a potential: their tensors and the gradient of a loss.

A tensor has no derivative by positions in a loss, so one backward pass through the invariants is
all that its gradient needs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtp.basis.graphs import MomentSpec, graphs
from mtp.basis.moment_table import MomentTable, covariant_table
from mtp.geometry import Batch
from mtp.kernels import operator
from mtp.prediction import Prediction, per_structure
from mtp.tensor_head import RANK, TensorHead
from mtp.terms import PREDICTED
from mtp.type_embedding import TypeEmbedding

if TYPE_CHECKING:
    from mtp.potential import HeadSpec, Potential, PotentialSpec


def table(spec: PotentialSpec, head: HeadSpec) -> MomentTable:
    """Covariants of the head's level, behind the potential's invariants where it uses them."""
    return covariant_table(RANK[head.kind], _level(spec, head), _invariants(spec, head))


def module(spec: PotentialSpec, head: HeadSpec, embedding: TypeEmbedding | None) -> TensorHead:
    """The head as a module."""
    invariants = _invariants(spec, head)
    return TensorHead(
        head.kind,
        [not head.species or z in head.species for z in spec.species],
        0 if invariants is None else len(graphs(invariants)),
        len(graphs(_level(spec, head), RANK[head.kind])),
        *(head.hidden, head.activation, head.timestep, embedding),
    )


def _level(spec: PotentialSpec, head: HeadSpec) -> MomentSpec:
    """Level of the covariants; the potential's where none is given."""
    return spec.moments if head.level is None else replace(spec.moments, levmax=head.level)


def _invariants(spec: PotentialSpec, head: HeadSpec) -> MomentSpec | None:
    """A linear dipole needs none."""
    return spec.moments if head.hidden or head.kind == "polarizability" else None


@torch.no_grad()
def predict(potential: Potential, batch: Batch, head: str) -> Prediction:
    """The tensor of each structure and the shares of its atoms."""
    whole, atomic = PREDICTED[potential.spec.head(head).kind]
    shares = _shares(potential, batch, head)
    return Prediction({whole: per_structure(shares, batch), atomic: shares})


def backward(potential: Potential, batch: Batch, head: str, cotangents: dict[str, Tensor]) -> None:
    """By autograd through the invariants."""
    whole, atomic = PREDICTED[potential.spec.head(head).kind]
    slope = cotangents[whole][batch.structure] + cotangents[atomic]
    with torch.enable_grad():
        loss = (slope * _shares(potential, batch, head)).sum()
    if loss.requires_grad:
        loss.backward()


@torch.no_grad()
def fit_scale(potential: Potential, batch: Batch, head: str) -> None:
    """Covariants get unit size, then tensors without their shifts the size of the labels."""
    readout: TensorHead = potential.heads[head]
    readout.measure(_rows(potential, batch, head), batch.species)
    readout.scale.fill_(1.0)
    shares = _shares(potential, batch, head)
    shifts = torch.zeros_like(shares)
    if readout.shifts is not None:
        shifts = readout.shift_rows(batch.species) @ readout.shifts
    whole, atomic = PREDICTED[potential.spec.head(head).kind]
    term, predicted, shifts = (
        (whole, per_structure(shares, batch), per_structure(shifts, batch))
        if batch.present[whole].any()
        else (atomic, shares, shifts)
    )
    there = batch.labelled_rows(term)
    size, random = (
        float((values - shifts)[there].square().mean().sqrt()) if there.any() else 1.0
        for values in (batch.labels[term], predicted)
    )
    readout.scale.fill_(max(size, 1e-3) / max(random, 1e-12))


@torch.no_grad()
def linear_rows(
    potential: Potential, batch: Batch, head: str, shifts: bool, network: bool
) -> dict[str, Tensor]:
    """The tensor (S, components, n); of labelled atoms also (atoms, components, n)."""
    whole, atomic = PREDICTED[potential.spec.head(head).kind]
    readout: TensorHead = potential.heads[head]
    rows = readout.features(_rows(potential, batch, head), batch.species).double()
    if shifts:
        rows = torch.cat([rows, readout.shift_rows(batch.species)], -1)
    found = {whole: per_structure(rows, batch)}
    labelled = batch.present[atomic].any() if atomic in batch.present else True
    return found | ({atomic: rows} if labelled else {})


def _shares(potential: Potential, batch: Batch, head: str) -> Tensor:
    """(atoms, components) in float64."""
    return potential.heads[head](_rows(potential, batch, head), batch.species)


def _rows(potential: Potential, batch: Batch, head: str) -> Tensor:
    """(atoms, n) invariants and components of covariants."""
    basis = potential.bases[head]
    return operator.invariants(potential.coefficients_for(basis.table), batch.pairs, basis)
