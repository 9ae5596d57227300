"""The first structures, where there are no data: the starts, strained and rattled."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from mtp.structure import Structure

STRAIN, RATTLE = 0.05, 0.15  # largest; the second in Å


def first_structures(starts: list[Atoms], count: int, seed: int) -> list[Structure]:
    """`count` structures, the starts in turn, from hardly to much disturbed."""
    random = np.random.default_rng(seed)
    found = []
    for k in range(count):
        atoms, size = starts[k % len(starts)], (k + 1) / count
        strain = random.uniform(-STRAIN, STRAIN, (3, 3)) * size
        deformation = np.eye(3) + (strain + strain.T) / 2
        offsets = random.standard_normal((len(atoms), 3)) * RATTLE * size
        found.append(
            Structure(
                atoms.numbers.copy(),
                atoms.positions @ deformation + offsets,
                atoms.cell.array @ deformation,
                atoms.pbc.copy(),
                config_type="begin",
            )
        )
    return found
