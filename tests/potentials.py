"""Potentials and structures that the tests share; every number comes from a seed."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from mtp.potential import EmbeddingSpec, HeadSpec, Potential, PotentialSpec

SMALL = (8, 2, 1, 1)
"""levmax and costs (init, mu, nu) of the small model."""


def random_potential(
    species: tuple[int, ...],
    level: tuple[int, int, int, int] = (8, 2, 4, 1),
    *,
    cutoff: float = 5.0,
    min_dist: float = 1.5,
    n_q: int = 5,
    hidden: tuple[int, ...] = (),
    seed: int = 0,
    heads: tuple[HeadSpec, ...] = (),
    **network,
) -> Potential:
    """A potential with random coefficients and normalisations of a usual size.

    network: more of HeadSpec. heads: instead of the one that hidden and network describe.
    """
    heads = heads or (HeadSpec(hidden=hidden, **network),)
    embedding = EmbeddingSpec((4,)) if any(head.embedded for head in heads) else None
    spec = PotentialSpec(species, cutoff, min_dist, n_q, *level, heads=heads, embedding=embedding)
    potential = Potential(spec)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in sorted(potential.state_dict().items()):
            values = rng.uniform(-1, 1, tuple(tensor.shape))
            if name.endswith(("std", "scale", "step")):
                values = 1.5 + values
            elif name == "radial":
                values = 0.05 * values
            tensor.copy_(torch.from_numpy(np.asarray(values)))
    return potential


def disordered(species: tuple[int, ...], seed: int = 0) -> Atoms:
    """Eight atoms on a strained and rattled rocksalt lattice, smaller than the usual cutoff."""
    rng = np.random.default_rng(seed)
    atoms = bulk("NaCl", "rocksalt", a=4.8, cubic=True)
    atoms.numbers = rng.permutation(np.resize(species, len(atoms)))
    strain = np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3))
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions += rng.uniform(-0.15, 0.15, atoms.positions.shape)
    return atoms
