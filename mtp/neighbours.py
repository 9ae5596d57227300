"""A neighbour list kept while atoms stay within its skin; periodic images are ghost atoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase.atoms import Atoms

from mtp.errors import InvalidInput
from mtp.geometry import pairs_within


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Neighbours of every atom, as indices of points: atoms, then ghosts, their periodic images.

    start, count: (atoms,) an atom's neighbours are entries start … start + count of `neighbour`,
    (pairs,) indices of points. owner: (points,) the atom that a point is an image of; of atoms
    themselves. image: (points, 3) how many cells away it is; atoms may be wrapped into the cell.
    shift: (points, 3) what that adds to the owner's position, in Å.
    """

    start: np.ndarray
    count: np.ndarray
    neighbour: np.ndarray
    owner: np.ndarray
    image: np.ndarray
    shift: np.ndarray

    @classmethod
    def find(cls, atoms: Atoms, cutoff: float) -> Neighbours:
        """All pairs within the cutoff (Å), by vesin."""
        n = len(atoms)
        i, j, images = pairs_within(atoms.positions, atoms.cell.array, atoms.pbc, cutoff, "ijS")
        order = np.argsort(i, kind="stable")
        count = np.bincount(i.astype(np.int64), minlength=n).astype(np.int32)
        neighbour = j.astype(np.int32)
        owner, image = np.arange(n, dtype=np.int32), np.zeros((n, 3), np.int32)
        outside = np.flatnonzero(images[:, 0] | images[:, 1] | images[:, 2])
        if len(outside):
            ghosts, index = _unique(images[outside], j[outside].astype(np.int64), n)
            neighbour[outside] = n + index
            owner = np.concatenate([owner, ghosts[:, 3]]).astype(np.int32)
            image = np.concatenate([image, ghosts[:, :3]]).astype(np.int32)
        return cls(
            start=np.cumsum(count, dtype=np.int64) - count,
            count=count,
            neighbour=neighbour[order],
            owner=owner,
            image=image,
            shift=image @ atoms.cell.array,
        )

    def move_images(self, cell: np.ndarray) -> None:
        """Let the points follow a change of the cell (3, 3) in Å."""
        np.matmul(self.image, cell, out=self.shift)

    def displacements(self, positions: np.ndarray) -> np.ndarray:
        """(pairs, 3) in Å from every atom to its neighbours, for positions (atoms, 3)."""
        points = np.take(positions, self.owner, axis=0)
        points += self.shift
        found = np.take(points, self.neighbour, axis=0)
        found -= np.repeat(points[: len(positions)], self.count, axis=0)
        return found


def _unique(images: np.ndarray, owners: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The different (image, owner) as rows (ghosts, 4), and the row of each given one."""
    low = images.min(0).astype(np.int64)
    span = images.max(0) - low + 1
    if np.prod([*span, n], dtype=float) > np.iinfo(np.int64).max:
        raise InvalidInput("atoms lie too many cells away from each other; wrap the positions")
    key = np.ravel_multi_index((*(images - low).T, owners), (*span, n))
    different, index = np.unique(key, return_inverse=True)
    rows = np.stack(np.unravel_index(different, (*span, n)), axis=1)
    rows[:, :3] += low
    return rows, index


Find = Callable[[Atoms, float], Neighbours]


class VerletList:
    """Neighbours within cutoff + skin, kept while they are sure to hold all within the cutoff.

    find: how they are found, from atoms and a cutoff in Å. builds: how often that was.
    """

    def __init__(self, cutoff: float, skin: float, find: Find = Neighbours.find) -> None:
        if not (np.isfinite(skin) and skin >= 0):
            raise InvalidInput(f"skin must be 0 or more Å, got {skin}")
        self.cutoff = cutoff
        self.skin = skin
        self.find = find
        self.builds = 0
        self._neighbours: Neighbours | None = None

    def neighbours(self, atoms: Atoms) -> Neighbours:
        """The neighbours for these atoms; the same object as before while the list is kept."""
        if self._neighbours is None or not self._holds(atoms):
            return self._build(atoms)
        cell = atoms.cell.array
        if (cell != self._cell_now).any():
            self._neighbours.move_images(cell)
            self._cell_now = cell.copy()
        return self._neighbours

    def _holds(self, atoms: Atoms) -> bool:
        """Whether no pair that is not in the list can be within the cutoff.

        A deformation of the cell by F takes a pair from d to at least s·|d|, s the smallest
        singular value of F; what atoms move beyond it brings two of them closer by twice that.
        """
        positions, cell, pbc = self._built_for
        if len(positions) != len(atoms) or (pbc != atoms.pbc).any():
            return False
        slack, expected = self.skin, positions
        if (cell != atoms.cell.array).any():
            if not (pbc.all() and np.isfinite(atoms.cell.array).all()):
                return False
            deformation = np.linalg.solve(cell, atoms.cell.array)
            stretch = np.linalg.svd(deformation, compute_uv=False)[-1]
            slack = stretch * (self.cutoff + self.skin) - self.cutoff
            expected = positions @ deformation
        moved = atoms.positions - expected
        furthest = np.einsum("ij,ij->i", moved, moved).max(initial=0.0)
        return bool(slack >= 0 and 4 * furthest <= slack**2)

    def _build(self, atoms: Atoms) -> Neighbours:
        positions, cell = atoms.positions, atoms.cell.array
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            raise InvalidInput("positions or cell are not finite; the simulation has exploded")
        self._neighbours = self.find(atoms, self.cutoff + self.skin)
        self._built_for = positions.copy(), cell.copy(), atoms.pbc.copy()
        self._cell_now = cell.copy()
        self.builds += 1
        return self._neighbours
