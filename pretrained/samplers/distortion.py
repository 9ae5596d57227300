"""Structures near a given one: rattled, strained, compressed, one atom displaced."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms

from pretrained.samplers.growth import direction, numbers_of, tagged


def rattle(atoms: Atoms, count: int, seed: int, sigma: float = 0.1) -> Iterator[Atoms]:
    """Every atom moved by normal random numbers of up to ``sigma`` Å; widths spread evenly."""
    for i in range(count):
        random, moved = numbers_of(seed, i), atoms.copy()
        width = sigma * random.uniform(0.2, 1.0)
        moved.positions += random.normal(scale=width, size=moved.positions.shape)
        yield tagged(moved, "rattle")


def strain(atoms: Atoms, count: int, seed: int, largest: float = 0.1) -> Iterator[Atoms]:
    """Cell and atoms under a random symmetric strain with components up to ``largest``."""
    for i in range(count):
        random, moved = numbers_of(seed, i), atoms.copy()
        values = random.uniform(-largest, largest, size=(3, 3))
        deformation = np.eye(3) + (values + values.T) / 2
        moved.set_cell(moved.cell.array @ deformation, scale_atoms=bool(moved.cell.rank == 3))
        if moved.cell.rank < 3:
            moved.positions = moved.positions @ deformation
        yield tagged(moved, "strain")


def compress(
    atoms: Atoms, count: int, seed: int, scale: tuple[float, float] = (0.85, 1.15)
) -> Iterator[Atoms]:
    """Lengths scaled evenly over ``scale``, with atoms rattled a little."""
    for i in range(count):
        random, moved = numbers_of(seed, i), atoms.copy()
        factor = scale[0] + (scale[1] - scale[0]) * (i + random.random()) / max(count, 1)
        moved.cell[:] = moved.cell.array * factor
        moved.positions *= factor
        moved.positions += random.normal(scale=0.02, size=moved.positions.shape)
        yield tagged(moved, "compress")


def displace(atoms: Atoms, count: int, seed: int, furthest: float = 0.5) -> Iterator[Atoms]:
    """One random atom moved by up to ``furthest`` Å."""
    for i in range(count):
        random, moved = numbers_of(seed, i), atoms.copy()
        shift = direction(random) * random.uniform(0, furthest)
        moved.positions[random.integers(len(moved))] += shift
        yield tagged(moved, "displace")
