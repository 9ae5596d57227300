"""A potential's start: random coefficients and the scales that make every data set look alike."""

from __future__ import annotations

import torch
from torch import Tensor

from mtp.basis.radial import radial_basis
from mtp.geometry import Batch
from mtp.heads import FIRST_TIMESTEP
from mtp.potential import Potential

# An Adam step of size 1 changes a coefficient of typical size 1 by this much: it makes the learning
# rates of LightPFP's example control file (0.1, then 0.01) good ones (docs/theory.md, "Scales").
RADIAL_STEP = 0.3
READOUT_STEP = 0.1
NOISE = 0.05  # relative; tells species and repeated functions apart


@torch.no_grad()
def initialise(potential: Potential, batch: Batch, generator: torch.Generator) -> None:
    """Random coefficients; scales from a batch of training structures.

    Sets the radial scale (polynomials have unit size over the pairs), the mean and standard
    deviation of the invariants, and each head's energy scale (random forces as large as the
    labels'). Radial function μ starts as polynomial μ.
    """
    _start_descriptor(potential, batch, generator)
    b = potential.invariants(batch).double()
    mean, std = b.mean(0), b.std(0, unbiased=False)
    size = torch.linalg.norm(b, dim=0) / max(len(b), 1) ** 0.5
    std = torch.where(std > 1e-6 * size, std, torch.where(size > 0, size, torch.ones_like(size)))
    for name, head in potential.heads.items():
        head.mean.copy_(mean)
        head.std.copy_(std)
        for layer in head.layers:
            bound = (3.0 / layer.in_features) ** 0.5
            layer.weight.copy_(_uniform(layer.weight, bound, generator) / READOUT_STEP)
            layer.bias.zero_()
            if layer.timestep is not None:
                layer.timestep.fill_(FIRST_TIMESTEP / READOUT_STEP)
        if head.by_species is not None:
            bound = (3.0 / head.by_species.in_features) ** 0.5
            weight = head.by_species.weight
            weight.copy_(_uniform(weight, bound, generator) / READOUT_STEP)
        bound = (3.0 / head.last.in_features) ** 0.5
        head.last.weight.copy_(_uniform(head.last.weight, bound, generator) / READOUT_STEP)
        head.step.fill_(READOUT_STEP)
        head.scale.fill_(1.0)
        head.scale.fill_(_label_size(batch) / _predicted_size(potential, batch, name))


def _start_descriptor(potential: Potential, batch: Batch, generator: torch.Generator) -> None:
    rows, _, _ = batch.pairs.explicit()
    spec = potential.spec.radial
    q, _ = radial_basis(torch.linalg.norm(batch.pairs.displacement[rows].double(), dim=1), spec)
    size = q.square().mean(0).sqrt() if len(q) else torch.ones(spec.size, dtype=torch.float64)
    neighbours = max(len(rows) / max(batch.n_atoms, 1), 1.0)
    potential.radial_scale.copy_(RADIAL_STEP / size)
    polynomial = torch.arange(potential.table.n_radial) % spec.size
    functions = torch.eye(spec.size, dtype=torch.float64)[polynomial]
    noise = NOISE * torch.randn(potential.radial.shape, generator=generator, dtype=torch.float64)
    if potential.embedding is None:
        start = functions + noise
    else:  # the component that all species share carries the functions
        potential.embedding.start(generator)
        start = noise / len(noise)
        start[0, 0] += functions
    potential.radial.copy_(start / (neighbours**0.5 * RADIAL_STEP))


def _uniform(like: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(like.shape, generator=generator, dtype=torch.float64) - 1) * bound


def _label_size(batch: Batch) -> float:
    """Typical force, or without forces the spread of energies per atom."""
    labelled = batch.present["forces"][batch.structure]
    if labelled.any():
        size = batch.labels["forces"][labelled].square().mean().sqrt()
    else:
        per_atom = (batch.labels["energy"] / batch.atoms_per_structure)[batch.present["energy"]]
        size = per_atom.std(unbiased=False) if len(per_atom) else torch.ones(())
    return max(float(size), 1e-3)


def _predicted_size(potential: Potential, batch: Batch, head: str) -> float:
    predicted = potential.predict(batch, head)
    if batch.present["forces"].any():
        size = predicted.forces.double().square().mean().sqrt()
    else:
        size = (predicted.energy / batch.atoms_per_structure).std(unbiased=False)
    return max(float(size), 1e-12)
