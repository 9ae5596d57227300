"""One structure: atoms, cell and the labels it carries."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# Voigt order of every stress in this package (ASE's).
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True, eq=False)
class Structure:
    """A structure with its labels; a label that is absent is ``None``, never zero.

    numbers: (atoms,) atomic numbers.  positions: (atoms, 3) in Å.  cell: (3, 3) in Å, rows are the
    lattice vectors, zero where not periodic.  pbc: (3,).
    energy: total of the structure in eV.  forces: (atoms, 3) in eV/Å.
    stress: (6,) xx yy zz yz xz xy in eV/Å³, ASE's sign (positive = tension).
    dipole: (3,) in e·Å.  polarizability: (6,) xx yy zz yz xz xy in Å³.
    atomic_dipole: (atoms, 3), atomic_polarizability: (atoms, 6): shares of the atoms.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=bool))
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    dipole: np.ndarray | None = None
    polarizability: np.ndarray | None = None
    atomic_dipole: np.ndarray | None = None
    atomic_polarizability: np.ndarray | None = None
    weight: float = 1.0
    config_type: str = ""
    source: str = ""
    index: int = 0
    """Position of the frame in its file, from 0."""

    def __len__(self) -> int:
        return len(self.numbers)

    def label(self, term: str) -> float | np.ndarray | None:
        """The label of a term of mtp/terms.py, None where it is absent or has no meaning."""
        if term == "stress" and not self.pbc.all():
            return None
        return getattr(self, term)

    @property
    def volume(self) -> float:
        """|det cell| in Å³ (left-handed cells included)."""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def where(self) -> str:
        """How messages name this frame: ``file#index``."""
        return f"{self.source}#{self.index}"
