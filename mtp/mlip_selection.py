"""The active set behind an .almtp: rows over all coefficients, for extrapolation grades elsewhere.

MLIP-3 and the pair style mtp/extrapolation of LAMMPS grade an atom by its derivatives with respect
to every coefficient: radial ones in the order of the file, species_coeffs, moment_coeffs. Behind
the text stand the weights that say what a row is, two matrices in binary, the origin of each row
and the structures these come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from mtp.atomic_file import write_atomically
from mtp.errors import InvalidInput
from mtp.geometry import Geometry, Pairs
from mtp.grade import PASSES, ActiveSet
from mtp.kernels import operator
from mtp.mlip_file import mlip_numbers, mtp_text, read_mtp

if TYPE_CHECKING:
    from mtp.potential import Potential
    from mtp.structure import Structure

MARK = b"#MVS_v1.1\n"
END = b"\n#\n"
WEIGHTS = ("energy_weight", "force_weight", "stress_weight", "site_en_weight")
NOWHERE = -1  # origin of rows whose structure is not kept
START = 1e-6
"""MLIP's: a set starts as this times the unit matrix."""


@dataclass(frozen=True, eq=False)
class Selection:
    """An active set of n rows over n coefficients.

    rows: (n, n) derivatives of energies by the coefficients.  inverse: (n, n), rows · inverse = 1.
    neighbourhood: whether a row is of one atom, otherwise of a whole structure.
    origin: (n, 2) structure and equation of each row, −1 where not known.
    """

    rows: np.ndarray
    inverse: np.ndarray
    neighbourhood: bool
    origin: np.ndarray

    def grades(self, rows: np.ndarray) -> np.ndarray:
        """(m,) extrapolation grades of rows (m, n)."""
        return np.abs(rows @ self.inverse).max(axis=1, initial=0.0)


def write_almtp(
    path: str | Path, potential: Potential, selection: Selection, head: str | None = None
) -> None:
    """Write one linear head with an active set over all its coefficients.

    Raises InvalidInput for what the format cannot express and for a set of another size.
    """
    numbers = mlip_numbers(potential, head)
    n = numbers.n_coefficients
    if selection.rows.shape != (n, n) or selection.inverse.shape != (n, n):
        raise InvalidInput(
            f"{path}: the active set must have {n} rows and columns, one for each coefficient, got "
            f"{selection.rows.shape} and an inverse {selection.inverse.shape}"
        )
    kind = (0, 0, 0, 1) if selection.neighbourhood else (1, 0, 0, 0)
    lines = [f"{name} {value:.16e}\n" for name, value in zip(WEIGHTS, kind, strict=True)]
    origin = "".join(f"{a} {b}\n" for a, b in selection.origin)
    # The inverse goes by columns: MLIP grades b by max_i |Σ_j b_j inverse[i, j]|.
    matrices = (selection.rows, selection.inverse.T)
    parts = [
        mtp_text(numbers).encode(),
        *(b"\n", MARK, "".join(lines).encode(), b"weight_scaling 0\n#"),
        *(np.ascontiguousarray(matrix, "<f8").tobytes() for matrix in matrices),
        *(END, origin.encode(), b"#\n"),
    ]
    write_atomically(Path(path), b"".join(parts))


def read_selection(path: str | Path) -> Selection | None:
    """The active set of an .almtp, None where the file has none. Raises InvalidInput."""
    n = read_mtp(path).n_coefficients
    _, mark, tail = Path(path).read_bytes().partition(MARK)
    if not mark:
        return None
    header, _, tail = tail.partition(b"#")
    weights = dict(re.findall(r"(\w+)\s+(\S+)", header.decode("ascii", "replace")))
    size = 8 * n * n
    if len(tail) < 2 * size or tail[2 * size : 2 * size + len(END)] != END:
        raise InvalidInput(
            f"{path}: the active set is not one over its {n} coefficients, or damaged"
        )
    try:
        energy, force, stress, site = (float(weights[name]) for name in WEIGHTS)
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"{path}: damaged weights of the active set: {error}") from error
    if force or stress or (energy > 0) == (site > 0):
        raise InvalidInput(
            f"{path}: an active set of {'energies and ' if energy and site else ''}forces or "
            "stresses is not read; rows must be of atoms (site_en_weight 1) or of structures "
            "(energy_weight 1)"
        )
    rows, inverse = (
        np.frombuffer(tail, "<f8", n * n, offset).reshape(n, n) for offset in (0, size)
    )
    origin = tail[2 * size + len(END) :].split(b"#", 1)[0].split()
    if len(origin) != 2 * n:
        raise InvalidInput(f"{path}: the active set must say the origin of its {n} rows; damaged")
    return Selection(rows, inverse.T, site > 0, np.array(origin, int).reshape(n, 2))


def select_rows(
    potential: Potential,
    structures: Sequence[Structure],
    head: str | None = None,
    neighbourhood: bool = True,
) -> Selection:
    """The active set of structures for a linear head, by maxvol over all coefficients."""
    numbers = mlip_numbers(potential, head)
    found = ActiveSet(numbers.n_coefficients, START)
    geometry = Geometry(structures, potential.spec.species, potential.spec.cutoff)
    for number in range(1, PASSES + 1):
        changed = False
        told = f"active set, pass {number}"
        for k in tqdm(range(len(geometry)), desc=told, disable=None, leave=False):
            rows = coefficient_rows(potential, geometry.batch(np.array([k])).pairs, head)
            changed |= found.update(rows if neighbourhood else rows.sum(axis=0, keepdims=True))
        if not changed:
            break
    origin = np.full((len(found.rows), 2), NOWHERE)  # structures are not written
    return Selection(found.rows, found.inverse, neighbourhood, origin)


def coefficient_rows(potential: Potential, pairs: Pairs, head: str | None = None) -> np.ndarray:
    """(atoms, n) derivatives of the atoms' energies by all coefficients of a linear head."""
    numbers = mlip_numbers(potential, head)
    weights, c = torch.from_numpy(numbers.moment_coeffs), potential.coefficients.detach()
    n_species = len(c)
    rows = np.zeros((len(pairs), numbers.n_coefficients))
    for atom, (one, species) in enumerate(_single_atoms(pairs)):
        own = c.clone().requires_grad_()
        invariants = operator.invariants(own, one, potential.basis)[0]
        (slope,) = torch.autograd.grad(invariants @ weights, own)
        shifts = np.eye(n_species)[species]
        rows[atom] = np.concatenate([slope.numpy().ravel(), shifts, invariants.detach().numpy()])
    return rows


def _single_atoms(pairs: Pairs) -> Iterator[tuple[Pairs, int]]:
    """Each atom with its neighbours as a system of its own, in which only it has pairs."""
    for atom in range(len(pairs)):
        first, n = int(pairs.start[atom]), int(pairs.count[atom])
        neighbour = pairs.neighbour[first : first + n] + pairs.base[atom]
        count = torch.zeros(n + 1, dtype=torch.int32)
        count[0] = n
        species = torch.cat([pairs.species[atom : atom + 1], pairs.species[neighbour.long()]])
        yield (
            Pairs(
                species=species,
                start=torch.where(count > 0, 0, n),
                count=count,
                base=torch.zeros(n + 1, dtype=torch.int32),
                neighbour=torch.arange(1, n + 1, dtype=torch.int32),
                displacement=pairs.displacement[first : first + n],
            ),
            int(pairs.species[atom]),
        )
