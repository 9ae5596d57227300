"""Named structures that every kernel and symmetry is tested on, with random coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase.build import bulk as ase_bulk
from torch import Tensor

from mtp.basis.graphs import MomentSpec
from mtp.basis.moment_table import MomentTable, moment_table
from mtp.basis.radial import RadialSpec
from mtp.geometry import Batch, Geometry, Pairs
from mtp.structure import Structure

CUTOFF = 4.0
MIN_DIST = 1.4
LIST_CUTOFF = 4.3
"""Å. Neighbour lists reach beyond the cutoff, so that kernels must ignore the pairs out there."""

SPECS = {
    "level 2": MomentSpec(2),
    "level 6": MomentSpec(6),
    "level 8": MomentSpec(8),
    "level 12": MomentSpec(12),
    "level 16": MomentSpec(16),
    "small": MomentSpec(8, 2, 1, 1),
    "odd costs": MomentSpec(9, 1, 3, 2),
}
"""Tables by name: standard ones, the small default of the control file, costs of no meaning."""


def free(numbers: list[int], positions: list | np.ndarray) -> Structure:
    """Atoms in vacuum."""
    return Structure(np.array(numbers), np.asarray(positions, dtype=np.float64).reshape(-1, 3))


def crystal(
    numbers: list[int],
    cell: np.ndarray,
    positions: np.ndarray,
    pbc: tuple[bool, bool, bool] = (True, True, True),
) -> Structure:
    """Atoms in a cell."""
    return Structure(np.array(numbers), positions, np.asarray(cell), np.array(pbc))


def rattled(elements: list[int], repeat: int = 1, seed: int = 0) -> Structure:
    """A rocksalt-like cubic crystal of 8·repeat³ atoms, rattled; the elements take turns."""
    rng = np.random.default_rng(seed)
    atoms = ase_bulk("NaCl", "rocksalt", a=4.6, cubic=True).repeat(repeat)
    positions = atoms.positions + rng.uniform(-0.15, 0.15, atoms.positions.shape)
    numbers = rng.permutation(np.resize(elements, len(atoms)))
    return crystal(list(numbers), atoms.cell.array, positions)


def _molecule() -> Structure:
    positions = [[0, 0, 0], [1.5, 0.2, -0.1], [-0.6, 1.6, 0.3], [0.4, -0.9, 1.9], [2.1, 1.8, 0.7]]
    return free([8, 1, 1, 6, 1], positions)


def _skewed(handedness: int) -> Structure:
    rng = np.random.default_rng(3)
    cell = np.array([[3.9, 0.3, 0.2], [1.1, 4.2, -0.4], [0.7, 0.9, 4.4 * handedness]])
    fractions = np.array([[0.0, 0, 0], [0.5, 0.5, 0.1], [0.1, 0.5, 0.5], [0.6, 0.1, 0.5]])
    return crystal([14, 14, 8, 8], cell, fractions @ cell + rng.uniform(-0.1, 0.1, (4, 3)))


def _slab() -> Structure:
    """Periodic in x and z only; atoms lie outside the cell as well."""
    rng = np.random.default_rng(4)
    cell = np.diag([3.2, 6.0, 3.6])
    positions = np.array([[0.0, 0, 0], [1.6, 1.8, 1.8], [0.2, 3.9, -2.0], [5.0, 6.1, 0.4]])
    positions += rng.uniform(-0.1, 0.1, (4, 3))
    return crystal([29, 8, 29, 8], cell, positions, (True, False, True))


SYSTEMS = {
    "dimer": free([14, 14], [[0, 0, 0], [1.1, -1.3, 0.9]]),
    "molecule": _molecule(),
    "isolated atom": free([14], [[0.3, 0.2, 0.1]]),
    "no pairs": free([14, 8, 14], [[0, 0, 0], [9, 0, 0], [0, 9, 9]]),
    "some without pairs": free([14, 8, 8], [[0, 0, 0], [1.9, 0.4, 0.2], [0, 9, 9]]),
    "bulk": rattled([14]),
    "triclinic": _skewed(1),
    "left-handed": _skewed(-1),
    "tiny cell": crystal(
        [14], np.array([[2.4, 0.1, 0], [0.3, 2.5, 0.2], [0, 0.4, 2.3]]), np.zeros((1, 3))
    ),
    "slab": _slab(),
    "two species": rattled([8, 14]),
    "three species": rattled([1, 8, 14], seed=1),
    "five species": rattled([1, 6, 8, 14, 29], seed=2),
    "pair at the cutoff": free([14, 14, 14], [[0, 0, 0], [CUTOFF, 0, 0], [0, 1.8, 0.3]]),
    "pair at min_dist": free([14, 14, 14], [[0, 0, 0], [MIN_DIST, 0, 0], [0, 1.8, 0.3]]),
    "pair below min_dist": free([14, 8, 14], [[0, 0, 0], [1.3, 0.1, 0], [0.2, 0.9, 0.4]]),
    "axis": free([14, 14, 8], [[0, 0, 0], [0, 0, 2.0], [0, 0, -2.0]]),
}


def elements(*structures: Structure) -> tuple[int, ...]:
    """Atomic numbers that occur, ascending."""
    return tuple(sorted({int(z) for s in structures for z in s.numbers}))


def geometry(
    structures: list[Structure], species: tuple[int, ...] = (), dtype: torch.dtype = torch.float64
) -> Geometry:
    """Pairs of the structures, some of them beyond CUTOFF; species default to those that occur."""
    return Geometry(structures, species or elements(*structures), LIST_CUTOFF, dtype)


@dataclass(frozen=True, eq=False)
class Case:
    """Everything a kernel needs for one call."""

    table: MomentTable
    radial: RadialSpec
    c: Tensor
    batch: Batch

    @property
    def pairs(self) -> Pairs:
        return self.batch.pairs

    @property
    def n_scalars(self) -> int:
        return len(self.table.scalars)

    def randn(self, *shape: int) -> Tensor:
        """Normal numbers of the case's dtype (from torch's seed)."""
        return torch.randn(shape, dtype=torch.float64).to(self.c.dtype)


def case(
    structures: Structure | list[Structure],
    spec: MomentSpec = SPECS["level 8"],
    n_q: int = 4,
    species: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float64,
) -> Case:
    """A case with random coefficients that make moments of usual size."""
    structures = [structures] if isinstance(structures, Structure) else structures
    species = species or elements(*structures)
    table, radial = moment_table(spec), RadialSpec(MIN_DIST, CUTOFF, n_q)
    shape = (len(species), len(species), table.n_radial, n_q)
    c = torch.randn(shape, dtype=torch.float64) / (CUTOFF - MIN_DIST) ** 2
    return Case(table, radial, c.to(dtype), geometry(structures, species, dtype).batch())


def random_rotation(rng: np.random.Generator, determinant: int = 1) -> np.ndarray:
    """An orthogonal matrix of the given determinant."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    q[:, 0] *= np.sign(np.linalg.det(q)) * determinant
    return q
