"""The potentials and structures that are timed; every number comes from a seed or a file."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from benchmarks.common import LEVELS, ROOT
from mtp.data.reading import read
from mtp.geometry import Geometry
from mtp.initialise import initialise
from mtp.potential import Potential, PotentialSpec
from mtp.structure import Structure

SIZES = {
    "SMALL": {"levmax": 8, "moment_mu_cost": 1},
    **{str(level): {"levmax": level} for level in LEVELS},
}
"""Name of a size and what it sets of mtp_config."""

CUTOFF = 5.0
MIN_DIST = 1.8  # Å; below the shortest distance of the thermal cells
THERMAL = 0.08  # Å, standard deviation of each coordinate: silicon at about 300 K
ELEMENTS = {
    1: (14,),
    2: (14, 32),
    5: (6, 14, 32, 50, 82),
    10: (6, 13, 14, 22, 29, 31, 32, 33, 50, 82),
}
"""Number of species and what the lattice is filled with."""


def silicon_set() -> list[Structure]:
    """The 214 training structures of mlearn's silicon set, as bundled for the demo."""
    return read(ROOT / "configs" / "demo" / "train.xyz.gz")


def thermal_cell(repeats: tuple[int, int, int] = (5, 5, 5), n_species: int = 1) -> Atoms:
    """Diamond lattice of silicon, 8 atoms times repeats, disordered, filled at random."""
    rng = np.random.default_rng(0)
    atoms = bulk("Si", cubic=True) * repeats
    atoms.numbers = rng.choice(ELEMENTS[n_species], len(atoms))
    atoms.positions += rng.normal(scale=THERMAL, size=atoms.positions.shape)
    return atoms


def potential_for(size: str, structures: list[Structure], min_dist: float = MIN_DIST) -> Potential:
    """A potential with the coefficients that training starts from."""
    species = tuple(sorted({int(z) for s in structures for z in s.numbers}))
    spec = PotentialSpec(species, CUTOFF, min_dist, n_q=8, **SIZES[size])
    potential = Potential(spec)
    batch = Geometry(structures, species, CUTOFF).batch()
    initialise(potential, batch, torch.Generator().manual_seed(0))
    return potential


def labelled(atoms: Atoms) -> Structure:
    """The atoms with random forces of a usual size, for potentials that fit nothing."""
    forces = np.random.default_rng(1).normal(size=(len(atoms), 3))
    return Structure(
        atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, energy=0.0, forces=forces
    )
