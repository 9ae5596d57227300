"""Properties of a crystal with any calculator: equation of state, elasticity, phonons, vacancies.

Structures are relaxed first where a property is one of the relaxed crystal. Units: Å, eV, GPa, THz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.geometry import minkowski_reduce
from ase.optimize import BFGS, LBFGS

from mtp.errors import InvalidInput
from mtp.geometry import pairs_within
from mtp.md import Settings, Simulation

FMAX = 1e-3  # eV/Å
STEPS = 500
MOST_ATOMS = 400  # BFGS keeps a Hessian: larger supercells take its limited form
THZ = 1e3 * units.fs / (2 * np.pi)  # ω in √(eV/Å²/u) → frequency


def relaxed(atoms: Atoms, calculator: Calculator, cell: bool = True, fmax: float = FMAX) -> Atoms:
    """A copy at its minimum; with its cell where it is periodic in three directions.

    Raises InvalidInput where none is found.
    """
    atoms = atoms.copy()
    atoms.calc = calculator
    target = FrechetCellFilter(atoms) if cell and atoms.pbc.all() else atoms
    method = BFGS if len(atoms) <= MOST_ATOMS else LBFGS
    optimiser = method(target, logfile=None)
    if not optimiser.run(fmax=fmax, steps=STEPS):
        raise InvalidInput(
            f"no minimum within {STEPS} steps: forces are still above {fmax:g} eV/Å; is the "
            "structure near one of this potential?"
        )
    return atoms


@dataclass(frozen=True, eq=False)
class EquationOfStateCurve:
    """Energies (eV/atom) over volumes (Å³/atom), and what Birch and Murnaghan's curve fits."""

    volumes: np.ndarray
    energies: np.ndarray
    volume: float  # Å³/atom
    energy: float  # eV/atom
    bulk_modulus: float  # GPa


def equation_of_state(
    atoms: Atoms, calculator: Calculator, spread: float = 0.1, points: int = 13
) -> EquationOfStateCurve:
    """Volumes within ± `spread` of the structure's own, ions at their scaled places."""
    scaled = atoms.copy()
    scaled.calc = calculator
    factors = np.linspace(1 - spread, 1 + spread, points)
    energies = []
    for factor in factors:
        scaled.set_cell(atoms.cell * factor ** (1 / 3), scale_atoms=True)
        energies.append(scaled.get_potential_energy() / len(atoms))
    volumes = factors * atoms.get_volume() / len(atoms)
    try:
        found = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
    except (ValueError, RuntimeError):  # no minimum among the volumes
        found = (np.nan, np.nan, np.nan)
    return EquationOfStateCurve(
        volumes, np.array(energies), float(found[0]), float(found[1]), float(found[2] / units.GPa)
    )


def elastic_constants(atoms: Atoms, calculator: Calculator, strain: float = 4e-3) -> np.ndarray:
    """(6, 6) in GPa, Voigt order, of a relaxed crystal; ions relax in every strained cell."""
    columns = []
    for k in range(6):
        stresses = []
        for sign in (1, -1):
            deformation = np.eye(3)
            i, j = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[k]
            deformation[i, j] += sign * strain * (1 if k < 3 else 0.5)
            if k > 2:
                deformation[j, i] = deformation[i, j]
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
            strained = relaxed(strained, calculator, cell=False, fmax=FMAX / 5)
            stresses.append(strained.get_stress())
        columns.append((stresses[0] - stresses[1]) / (2 * strain))
    matrix = np.array(columns) / units.GPa
    return (matrix + matrix.T) / 2


def cubic_constants(matrix: np.ndarray) -> dict[str, float]:
    """C11, C12, C44 as means over the axes, and Voigt's bulk and shear modulus, in GPa."""
    c11 = matrix[[0, 1, 2], [0, 1, 2]].mean()
    c12 = matrix[[0, 0, 1], [1, 2, 2]].mean()
    c44 = matrix[[3, 4, 5], [3, 4, 5]].mean()
    shear = (c11 - c12 + 3 * c44) / 5
    return {"C11": c11, "C12": c12, "C44": c44, "bulk": (c11 + 2 * c12) / 3, "shear": shear}


class Phonons:
    """Force constants of a relaxed crystal from displacements in a supercell.

    Frequencies are exact at wave vectors that the supercell repeats; between them force constants
    are interpolated, pairs at the supercell's border being shared among their nearest images.
    """

    def __init__(
        self,
        atoms: Atoms,
        calculator: Calculator,
        repeat: Sequence[int],
        displacement: float = 0.01,
    ) -> None:
        self.atoms, self.repeat, n = atoms, tuple(repeat), len(atoms)
        supercell = atoms.repeat(repeat)
        supercell.calc = calculator
        constants = np.zeros((n, 3, len(supercell), 3))
        for atom, axis in product(range(n), range(3)):
            sides = []
            for sign in (1, -1):
                supercell.positions[atom, axis] += sign * displacement
                sides.append(supercell.get_forces())
                supercell.positions[atom, axis] -= sign * displacement
            constants[atom, axis] = (sides[1] - sides[0]) / (2 * displacement)
        constants = constants.reshape(n, 3, -1, n, 3)  # atom, axis, cell, atom, axis
        own = np.arange(n)  # the acoustic sum rule: moving everything together costs nothing
        constants[own, :, 0, own] -= constants.sum(axis=(2, 3))[own]
        masses = atoms.get_masses()
        self.constants = constants / np.sqrt(
            masses[:, None, None, None, None] * masses[None, None, None, :, None]
        )
        self.images = self._images(supercell)

    def _images(self, supercell: Atoms) -> list[tuple[int, int, int, np.ndarray]]:
        """(atom, cell, atom, lattice vectors to the nearest images) in units of the cell's."""
        n, cells = len(self.atoms), len(supercell) // len(self.atoms)
        reduced, _ = minkowski_reduce(supercell.cell.array)
        shifts = np.array(list(product((-1, 0, 1), repeat=3))) @ reduced
        origin = np.array(list(product(*(range(k) for k in self.repeat)))) @ self.atoms.cell.array
        inverse = np.linalg.inv(self.atoms.cell.array)
        found = []
        for a, cell, b in product(range(n), range(cells), range(n)):
            between = self.atoms.positions[b] - self.atoms.positions[a]
            wrapped = np.linalg.solve(reduced.T, origin[cell] + between)
            lattice = origin[cell] - np.round(wrapped) @ reduced + shifts
            lengths = np.linalg.norm(lattice + between, axis=1)
            near = lattice[lengths < lengths.min() + 1e-4]
            found.append((a, cell, b, np.round(near @ inverse)))
        return found

    def frequencies(self, q: np.ndarray) -> np.ndarray:
        """(3 atoms,) THz at wave vector q, in units of the reciprocal cell; imaginary ones < 0."""
        n = len(self.atoms)
        matrix = np.zeros((n, 3, n, 3), complex)
        for a, cell, b, lattice in self.images:
            matrix[a, :, b] += (
                self.constants[a, :, cell, b] * np.exp(2j * np.pi * (lattice @ q)).mean()
            )
        matrix = matrix.reshape(3 * n, 3 * n)
        squares = np.linalg.eigvalsh((matrix + matrix.conj().T) / 2)
        return np.sign(squares) * np.sqrt(np.abs(squares)) * THZ

    def commensurate(self) -> np.ndarray:
        """(n,) frequencies in THz at all wave vectors that the supercell repeats, ascending."""
        grid = product(*(np.arange(k) / k for k in self.repeat))
        return np.sort(np.concatenate([self.frequencies(np.array(q)) for q in grid]))

    def along(self, points: int = 120) -> dict[str, Any]:
        """Frequencies (points, 3 atoms) along the standard path of the Brillouin zone."""
        path = self.atoms.cell.bandpath(npoints=points)
        x, ticks, labels = path.get_linear_kpoint_axis()
        bands = np.array([self.frequencies(q) for q in path.kpts])
        return {"x": x, "ticks": ticks, "labels": labels, "bands": bands}


def vacancy_energy(atoms: Atoms, calculator: Calculator, repeat: Sequence[int]) -> float:
    """eV to take the first atom of a relaxed crystal's supercell to the crystal, ions relaxed."""
    supercell = atoms.repeat(repeat)
    supercell.calc = calculator
    whole = supercell.get_potential_energy()
    vacant = supercell.copy()
    del vacant[0]
    vacant.rattle(0.02, seed=0)  # the symmetric places can be a saddle point
    vacant = relaxed(vacant, calculator, cell=False, fmax=5e-3)
    return vacant.get_potential_energy() - whole * len(vacant) / len(supercell)


def radial_distribution(
    frames: Sequence[Atoms], furthest: float, bins: int = 120
) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the bins in Å and g(r), a mean over frames that are periodic throughout."""
    edges = np.linspace(0, furthest, bins + 1)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    total = np.zeros(bins)
    for frame in frames:
        (d,) = pairs_within(frame.positions, frame.cell.array, frame.pbc, furthest, "d", full=False)
        density = len(frame) / frame.get_volume()
        total += 2 * np.histogram(d, edges)[0] / (len(frame) * density * shells)
    return (edges[1:] + edges[:-1]) / 2, total / len(frames)


def sample(
    atoms: Atoms, calculator: Calculator, settings: Settings, equilibration: float = 0.3
) -> list[Atoms]:
    """Frames of molecular dynamics after the first part of it."""
    moving, frames = atoms.copy(), []
    moving.calc = calculator
    Simulation(moving, settings).run(lambda now: frames.append(now.atoms.copy()))
    return frames[int(equilibration * len(frames)) :]
