"""Frames that say the same thing twice."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from mtp.structure import Structure
from mtp.terms import TERMS

SAME = 1e-8  # Å, eV, eV/Å, eV/Å³, e·Å, Å³


class Duplicates:
    """Finds an earlier frame with the same species, cell and positions.

    Frames are sorted into bins of a weighted sum of their coordinates, so a look-up compares
    only a handful of frames however large the set is.
    """

    def __init__(self) -> None:
        self.bins: dict[tuple[bytes, int], list[Structure]] = defaultdict(list)

    def find(self, item: Structure) -> Structure | None:
        """The first added frame with the same geometry to 1e-8 Å, or None."""
        name, place = self._bin(item)
        for shift in (0, -1, 1):  # a sum near the edge of its bin may fall into the next one
            for other in self.bins.get((name, place + shift), ()):
                if _same_geometry(item, other):
                    return other
        return None

    def add(self, item: Structure) -> None:
        """Make the frame known."""
        self.bins[self._bin(item)].append(item)

    def _bin(self, item: Structure) -> tuple[bytes, int]:
        values = np.concatenate([item.positions.ravel(), item.cell.ravel()])
        # fixed irrational-like weights in [0, 1); the mean moves by at most SAME
        weights = np.modf(np.arange(1, len(values) + 1) * 0.6180339887498949)[0]
        place = int(np.floor(np.mean(weights * values) / (100 * SAME)))
        return item.numbers.tobytes() + item.pbc.tobytes(), place


def same_labels(a: Structure, b: Structure) -> bool:
    """Whether both have the same labels with the same values to 1e-8."""
    return all(_same(getattr(a, name), getattr(b, name)) for name in TERMS)


def _same_geometry(a: Structure, b: Structure) -> bool:
    return _same(a.positions, b.positions) and _same(a.cell, b.cell)


def _same(a: object, b: object) -> bool:
    if a is None or b is None:
        return a is b
    return bool(np.all(np.abs(np.subtract(a, b)) <= SAME))
