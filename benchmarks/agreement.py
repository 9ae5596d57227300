"""How far energies, forces and stresses of other programs are from ours, for the same potential.

    python -m benchmarks.agreement

MOTEP's calculator with the .mtp file that we write; the pair style mtp/light in LAMMPS with the
model file; where PEER_PLUGIN names a plugin with the pair_style mtp of lammps-mtp-kokkos (see
lammps_speed), that with the .mtp file as well. Differences are relative to the largest component of
ours.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from benchmarks import peer
from benchmarks.common import arguments, record, say
from benchmarks.lammps_speed import PEER
from benchmarks.systems import ELEMENTS, SIZES, labelled, potential_for, thermal_cell
from mtp.calculator import MTPCalculator
from mtp.lammps import open_lammps
from mtp.mlip_file import write_mtp
from mtp.model_file import save_model
from mtp.potential import Potential

BAR = 1.6021765e6  # in an eV/Å³, as LAMMPS rounds it
Results = dict[str, np.ndarray]


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    cases = [(size, n) for size in SIZES for n in ELEMENTS]
    results = []
    for size, n_species in [("8", 2)] if options.quick else cases:
        cell = thermal_cell((2, 2, 2), n_species)
        potential = potential_for(size, [labelled(cell)])
        ours = calculated(cell, MTPCalculator(potential))
        found = {name: differences(ours, other) for name, other in others(potential, cell)}
        results.append({"size": size, "species": n_species, "differences": found})
        worst = {name: max(values.values()) for name, values in found.items()}
        say(f"{size}, {n_species} species: {worst}")
    say(f"written: {record('agreement', results, options.quick)}")


def others(potential: Potential, cell: Atoms) -> list[tuple[str, Results]]:
    """Name of a program and what it finds."""
    found = [("MOTEP", calculated(cell, peer.calculator(potential)))]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that .mtp says nothing of what is below min_dist
        model, mtp = Path(folder, "a.mtp.safetensors"), Path(folder, "a.mtp")
        save_model(model, potential)
        write_mtp(mtp, potential)
        species = potential.spec.species
        names = " ".join(chemical_symbols[z] for z in species)
        found.append(("mtp/light", in_lammps(cell, species, "mtp/light", f"{model} {names}")))
        if PEER:
            types = " ".join(map(str, range(len(species))))
            found.append(
                ("pair_style mtp", in_lammps(cell, species, "mtp", f"{mtp} {types}", PEER))
            )
    return found


def calculated(cell: Atoms, calculator: Any) -> Results:
    atoms = cell.copy()
    atoms.calc = calculator
    return {
        "energy": np.array(atoms.get_potential_energy()),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }


def in_lammps(
    cell: Atoms, species: tuple[int, ...], style: str, coeff: str, plugin: str | None = None
) -> Results:
    """The same by a pair style, in this process. The cell is rectangular."""
    lammps = open_lammps()
    a, b, c = cell.cell.lengths()
    masses = "\n".join(f"mass {k + 1} 1" for k in range(len(species)))
    load = f"plugin load {plugin}" if plugin else ""
    lammps.commands_string(
        f"units metal\n{load}\nregion box block 0 {a:.17g} 0 {b:.17g} 0 {c:.17g}\n"
        f"create_box {len(species)} box\n{masses}"
    )
    types = [species.index(z) + 1 for z in cell.numbers]
    lammps.create_atoms(len(cell), None, types, cell.get_positions(wrap=True).ravel())
    lammps.commands_string(f"pair_style {style}\npair_coeff * * {coeff}\nrun 0 post no")
    order = np.argsort(lammps.numpy.extract_atom("id")[: len(cell)])
    pressure = [lammps.get_thermo(name) for name in ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")]
    found = {
        "energy": np.array(lammps.get_thermo("pe")),
        "forces": lammps.numpy.extract_atom("f")[: len(cell)][order].copy(),
        "stress": -np.array(pressure) / BAR,
    }
    lammps.close()
    return found


def differences(ours: Results, theirs: Results) -> dict[str, float]:
    """Largest difference of each quantity over its largest component."""
    return {
        name: float(np.abs(theirs[name] - value).max() / np.abs(value).max())
        for name, value in ours.items()
    }


if __name__ == "__main__":
    main()
