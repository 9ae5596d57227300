"""Random periodic structures of given elements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import get_distances

from pretrained.samplers.growth import numbers_of, tagged


def random_structure(
    elements: Sequence[int],
    count: int,
    seed: int,
    atoms: tuple[int, int] = (2, 16),
    closest: float = 0.85,
) -> Iterator[Atoms]:
    """Random cells filled at random with random elements.

    The volume is that of spheres with the covalent radii, which fill a random 25 to 60 % of the
    cell; no two atoms are nearer than ``closest`` times the sum of their radii.
    """
    made = 0
    for i in range(50 * count):
        if made == count:
            return
        random = numbers_of(seed, i)
        chosen = random.choice(elements, size=random.integers(atoms[0], atoms[1] + 1))
        spheres = 4 / 3 * np.pi * np.sum(covalent_radii[chosen] ** 3)
        cell = np.eye(3) + random.uniform(-0.3, 0.3, size=(3, 3))
        volume = spheres / random.uniform(0.25, 0.6)
        cell *= (volume / abs(np.linalg.det(cell))) ** (1 / 3)
        positions = _place(chosen, cell, closest, random)
        if positions is not None:
            made += 1
            yield tagged(Atoms(chosen, positions, cell=cell, pbc=True), "random_structure")


def _place(
    chosen: np.ndarray, cell: np.ndarray, closest: float, random: np.random.Generator
) -> np.ndarray | None:
    """(atoms, 3) places without collisions, or None."""
    places: list[np.ndarray] = []
    for i, number in enumerate(chosen):
        for _ in range(100):
            place = random.random(3) @ cell
            limit = closest * (covalent_radii[number] + covalent_radii[chosen[:i]])
            if not places or np.all(
                get_distances([place], places, cell=cell, pbc=True)[1][0] > limit
            ):
                places.append(place)
                break
        else:
            return None
    return np.array(places)
