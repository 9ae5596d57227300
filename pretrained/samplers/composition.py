"""The same lattice with other elements on its sites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms

from pretrained.samplers.growth import bond_length, numbers_of, tagged


def substitution(
    atoms: Atoms, elements: Sequence[int], count: int, seed: int, sigma: float = 0.05
) -> Iterator[Atoms]:
    """A random share of the atoms replaced by random ``elements``, then rattled by ``sigma`` Å."""
    for i in range(count):
        random, other = numbers_of(seed, i), atoms.copy()
        chosen = random.random(len(other)) < random.uniform(0, 1)
        chosen[random.integers(len(other))] = True
        other.numbers[chosen] = random.choice(elements, size=chosen.sum())
        other.positions += random.normal(scale=sigma, size=other.positions.shape)
        yield tagged(other, "substitution")


def random_composition(
    atoms: Atoms, elements: Sequence[int], count: int, seed: int, sigma: float = 0.05
) -> Iterator[Atoms]:
    """All sites filled at random with a random composition of ``elements``.

    The structure is scaled by the ratio of the mean bond lengths (sums of covalent radii), give or
    take 5 %.
    """
    before = np.mean([bond_length(z, z) for z in atoms.numbers])
    for i in range(count):
        random, other = numbers_of(seed, i), atoms.copy()
        shares = random.dirichlet(np.ones(len(elements)))
        other.numbers = random.choice(elements, size=len(other), p=shares)
        after = np.mean([bond_length(z, z) for z in other.numbers])
        scale = after / before * random.uniform(0.95, 1.05)
        other.cell[:] = other.cell.array * scale
        other.positions *= scale
        other.positions += random.normal(scale=sigma, size=other.positions.shape)
        yield tagged(other, "random_composition")
