"""The quantities that structures are labelled with and heads predict.

Each is one term of a loss. Units: energy eV, forces eV/Å, stress eV/Å³, dipole e·Å, polarizability
Å³. Symmetric tensors stand as six components in Voigt order xx yy zz yz xz xy.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One quantity.

    rows: a row of `components` numbers per "structure" or per "atom".
    extensive: grows with the structure; errors are then compared per atom.
    """

    rows: str
    components: int
    extensive: bool = False

    def shape(self, atoms: int) -> tuple[int, ...]:
        """Of the label of one structure; () for a number."""
        lead = (atoms,) if self.rows == "atom" else ()
        return lead if self.components == 1 else (*lead, self.components)


TERMS: dict[str, Term] = {
    "energy": Term("structure", 1, extensive=True),
    "forces": Term("atom", 3),
    "stress": Term("structure", 6),
    "dipole": Term("structure", 3, extensive=True),
    "atomic_dipole": Term("atom", 3),
    "polarizability": Term("structure", 6, extensive=True),
    "atomic_polarizability": Term("atom", 6),
}

PREDICTED: dict[str, tuple[str, ...]] = {
    "energy": ("energy", "forces", "stress"),
    "dipole": ("dipole", "atomic_dipole"),
    "polarizability": ("polarizability", "atomic_polarizability"),
}
"""Kind of a head → the terms it predicts."""
