"""A potential's start: random coefficients and the scales that make every data set look alike."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from mtp.basis.radial import radial_basis
from mtp.geometry import Batch
from mtp.heads import FIRST_TIMESTEP, EnergyHead, Head
from mtp.potential import Potential

# An Adam step of size 1 changes a coefficient of typical size 1 by this much: it makes the learning
# rates of LightPFP's example control file (0.1, then 0.01) good ones (docs/theory.md, "Scales").
RADIAL_STEP = 0.3
READOUT_STEP = 0.1
JOINING = 0.1  # size of a network beside a trained linear part
NOISE = 0.05  # relative; tells species and repeated functions apart


def initialise(potential: Potential, batch: Batch, generator: torch.Generator) -> None:
    """Start a whole potential from one batch of labelled structures."""
    start_descriptor(potential, batch, generator)
    b = potential.invariants(batch)
    for name in potential.heads:
        start_head(potential, name, b, batch, generator)


@torch.no_grad()
def start_head(
    potential: Potential,
    name: str,
    b: Tensor,
    batch: Batch,
    generator: torch.Generator,
    keep: Collection[torch.nn.Module] = (),
) -> None:
    """Random weights of a head, its normalisation and its scale.

    b: (atoms, n_scalars) invariants of a sample of everything that will be trained on; they are
    standardised by it.  batch: labelled structures of the head's own task; random predictions are
    made as large as the labels.  keep: layers shared with other heads that stay as they are.
    """
    head = potential.heads[name]
    mean, std = b.double().mean(0), b.double().std(0, unbiased=False)
    size = torch.linalg.norm(b.double(), dim=0) / max(len(b), 1) ** 0.5
    std = torch.where(std > 1e-6 * size, std, torch.where(size > 0, size, torch.ones_like(size)))
    if len(head.mean):  # a linear dipole has no invariants
        head.mean.copy_(mean)
        head.std.copy_(std)
    for layer in head.layers:
        if layer in keep:
            continue
        _start_layer(layer.weight, generator)
        layer.bias.zero_()
        if layer.timestep is not None:
            layer.timestep.fill_(FIRST_TIMESTEP / READOUT_STEP)
    if head.by_species is not None:
        _start_layer(head.by_species.weight, generator)
    if head.last not in keep:
        _start_layer(head.last.weight, generator)
    head.step.fill_(READOUT_STEP)
    potential.fit_scale(batch, name)


@torch.no_grad()
def silence(head: Head) -> None:
    """Take a new network out of a readout of energies, whose linear part stays."""
    if isinstance(head, EnergyHead) and head.hidden:
        head.last.weight[:, : -len(head.mean)] = 0
        head.silent = True


@torch.no_grad()
def join_network(
    potential: Potential,
    name: str,
    b: Tensor,
    batch: Batch,
    generator: torch.Generator,
    keep: Collection[torch.nn.Module] = (),
) -> None:
    """Random small weights of a network beside the linear part of its readout, which stays.

    Arguments as of `start_head`.
    """
    head = potential.heads[name]
    n, scale = len(head.mean), head.scale.clone()
    linear = head.last.weight[:, -n:] / head.std
    head.silent = False
    start_head(potential, name, b, batch, generator, keep)
    head.scale.copy_(scale)
    if head.last not in keep:
        head.last.weight[:, :-n] *= JOINING
        head.last.weight[:, -n:] = linear * head.std


def _start_layer(weight: Tensor, generator: torch.Generator) -> None:
    bound = (3.0 / weight.shape[1]) ** 0.5
    uniform = 2 * torch.rand(weight.shape, generator=generator, dtype=torch.float64) - 1
    weight.copy_(uniform * (bound / READOUT_STEP))


@torch.no_grad()
def start_descriptor(potential: Potential, batch: Batch, generator: torch.Generator) -> None:
    """Radial functions, and the type embedding, from the pairs of a batch.

    The scale makes polynomials of unit size over the pairs; function μ starts as polynomial μ.
    """
    rows, _, _ = batch.pairs.explicit()
    spec = potential.spec.radial
    q, _ = radial_basis(torch.linalg.norm(batch.pairs.displacement[rows].double(), dim=1), spec)
    size = q.square().mean(0).sqrt() if len(q) else torch.ones(spec.size, dtype=torch.float64)
    neighbours = max(len(rows) / max(batch.n_atoms, 1), 1.0)
    polynomial = torch.arange(potential.radial.shape[2]) % spec.size
    functions = torch.eye(spec.size, dtype=torch.float64)[polynomial]
    noise = NOISE * torch.randn(potential.radial.shape, generator=generator, dtype=torch.float64)
    step = RADIAL_STEP
    if potential.embedding is None:
        start = functions + noise
    else:  # the component that all species share carries the functions
        potential.embedding.start(generator)
        start = noise / len(noise)
        start[0, 0] += functions
        # every component moves the coefficients of a pair: together as much as one of a table
        step /= float(potential.embedding.extended().abs().sum(1).mean()) ** 2
    potential.radial_scale.copy_(step / size)
    potential.radial.copy_(start / (neighbours**0.5 * step))
