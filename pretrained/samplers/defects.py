"""Vacancies and surfaces of a given crystal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.build import surface as cut

from pretrained.samplers.growth import numbers_of, tagged


def vacancy(
    atoms: Atoms, count: int, seed: int, most: int = 1, sigma: float = 0.05
) -> Iterator[Atoms]:
    """Up to ``most`` random atoms taken out, the others rattled by ``sigma`` Å."""
    most = min(most, len(atoms) - 1)
    if most < 1:
        return
    for i in range(count):
        random, left = numbers_of(seed, i), atoms.copy()
        missing = random.choice(len(left), size=random.integers(1, most + 1), replace=False)
        del left[missing.tolist()]
        left.positions += random.normal(scale=sigma, size=left.positions.shape)
        yield tagged(left, "vacancy")


def surface(
    atoms: Atoms,
    count: int,
    seed: int,
    layers: int = 4,
    vacuum: float = 8.0,
    most_atoms: int = 100,
    sigma: float = 0.05,
) -> Iterator[Atoms]:
    """Slabs with random Miller indices up to 2, rattled; both sides have ``vacuum`` Å.

    Slabs of more than ``most_atoms`` atoms are left out; periodic cells only.
    """
    made = 0
    for i in range(20 * count):
        if made == count:
            return
        random = numbers_of(seed, i)
        indices = random.integers(-2, 3, size=3)
        if not indices.any():
            continue
        slab = cut(atoms, tuple((indices // np.gcd.reduce(indices)).tolist()), layers, vacuum)
        if len(slab) > most_atoms:
            continue
        slab.pbc = True
        slab.positions += random.normal(scale=sigma, size=slab.positions.shape)
        made += 1
        yield tagged(slab, "surface")


def supercell(atoms: Atoms, least_atoms: int) -> Atoms:
    """The smallest nearly cubic repetition with at least ``least_atoms`` atoms."""
    times = np.ones(3, dtype=int)
    while len(atoms) * times.prod() < least_atoms:
        times[np.argmin(atoms.cell.lengths() * times)] += 1
    return make_supercell(atoms, np.diag(times))
