"""What the samplers share: random numbers by (seed, i), sensible distances, tagged copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii


def numbers_of(seed: int, i: int) -> np.random.Generator:
    """The random numbers of structure ``i`` of a seed."""
    return np.random.default_rng((seed, i))


def tagged(atoms: Atoms, sampler: str) -> Atoms:
    """The same structure without calculator, saying where it comes from."""
    atoms.calc = None
    atoms.info = {"config_type": sampler}
    return atoms


def direction(random: np.random.Generator) -> np.ndarray:
    """(3,) a unit vector, evenly distributed."""
    vector = random.normal(size=3)
    return vector / np.linalg.norm(vector)


def bond_length(first: int, second: int) -> float:
    """Sum of the covalent radii of two elements in Å."""
    return float(covalent_radii[first] + covalent_radii[second])


def grow(
    elements: Sequence[int],
    random: np.random.Generator,
    stretch: tuple[float, float] = (0.85, 1.3),
    closest: float = 0.8,
    tries: int = 100,
) -> Atoms | None:
    """A cluster grown atom by atom: each new one is bonded to an earlier one.

    stretch: range of bond lengths over the sum of covalent radii.  closest: no two atoms are
    nearer than this times that sum.  None where no place was found.
    """
    positions = np.zeros((len(elements), 3))
    for i in range(1, len(elements)):
        radii = covalent_radii[elements[i]] + covalent_radii[np.asarray(elements[:i])]
        for _ in range(tries):
            j = random.integers(i)
            place = positions[j] + direction(random) * radii[j] * random.uniform(*stretch)
            if np.all(np.linalg.norm(positions[:i] - place, axis=1) > closest * radii):
                positions[i] = place
                break
        else:
            return None
    return Atoms(list(elements), positions)
