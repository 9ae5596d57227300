"""Dimers of all pairs of elements and small random clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms

from pretrained.samplers.growth import bond_length, grow, numbers_of, tagged

# Elements that form the anions and ligands of most compounds.
LIGANDS = (1, 6, 7, 8, 9, 16, 17, 35)


def dimers(
    elements: Sequence[int], distances: int, seed: int, longest: float = 6.0
) -> Iterator[Atoms]:
    """Every pair of elements (an unordered pair is both ordered ones) at several distances.

    Distances are spread from 0.7 bond lengths (sums of covalent radii) to ``longest`` Å, dense
    near the bond length, each moved at random within its interval.
    """
    for i, (a, b) in enumerate(combinations_with_replacement(sorted(elements), 2)):
        random, bond = numbers_of(seed, i), bond_length(a, b)
        share = (np.arange(distances) + random.random(distances)) / distances
        for x in 0.7 * bond + (longest - 0.7 * bond) * share**2:
            yield tagged(Atoms([a, b], [[0, 0, 0], [0, 0, x]]), "dimer")


def clusters(
    elements: Sequence[int],
    count: int,
    seed: int,
    atoms: tuple[int, int] = (3, 8),
    ligands: Sequence[int] | None = None,
) -> Iterator[Atoms]:
    """Random clusters of ``atoms[0]`` to ``atoms[1]`` atoms with bonds near the covalent radii.

    Every element comes equally often. Half of the clusters hold at most three elements; where
    ``ligands`` are given, each atom beyond the first is one of them with probability 0.6.
    """
    elements = sorted(elements)
    made = 0
    for i in range(20 * count):
        if made == count:
            return
        random = numbers_of(seed, i)
        centre = elements[i % len(elements)]  # evenly over the elements
        kinds = random.choice(elements, size=2 if random.random() < 0.5 else atoms[1])
        others = random.choice(kinds, size=random.integers(atoms[0], atoms[1] + 1) - 1)
        if ligands:
            replaced = random.random(len(others)) < 0.6
            others = np.where(replaced, random.choice(list(ligands)), others)
        # low stretches stay possible: repulsion must be learnt, too
        cluster = grow([centre, *others.tolist()], random, closest=random.uniform(0.7, 0.95))
        if cluster is not None:
            made += 1
            yield tagged(cluster, "cluster_ligands" if ligands else "cluster")
