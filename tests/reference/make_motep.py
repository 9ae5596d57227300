"""Make motep.json: energies, forces and stresses that MOTEP finds with the .mtp files here.

    python tests/reference/make_motep.py

Each case is a random potential, kept as .mtp, which does not change with the program's own model
files, and a structure. Needs `pip install motep==0.2.0`.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from mtp.mlip_file import write_mtp  # noqa: E402
from tests.potentials import SMALL, disordered, random_potential  # noqa: E402

CASES = {
    "one_species_level_8": ((14,), (8, 2, 4, 1)),
    "three_species_small": ((3, 8, 22), SMALL),
    "two_species_level_12": ((13, 29), (12, 2, 4, 1)),
}


def motep_results(
    path: Path, species: tuple[int, ...], atoms: Atoms, engine: str
) -> dict[str, np.ndarray]:
    """Energy, forces and stress that MOTEP finds with a .mtp file."""
    from motep.calculator import MTP
    from motep.io.mlip.mtp import read_mtp

    data = read_mtp(path)
    data.species = species
    calculator = MTP(data, engine=engine)
    calculator.calculate(atoms.copy())
    return {key: np.asarray(calculator.results[key]) for key in ("energy", "forces", "stress")}


def main() -> None:
    """Write the .mtp files and motep.json."""
    made = {"program": "motep", "version": version("motep"), "engine": "numpy", "cases": {}}
    for seed, (name, (species, level)) in enumerate(CASES.items()):
        path = HERE / f"{name}.mtp"
        write_mtp(path, random_potential(species, level, seed=seed))
        atoms = disordered(species, seed)
        results = motep_results(path, species, atoms, "numpy")
        made["cases"][name] = {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist(),
            **{key: value.tolist() for key, value in results.items()},
        }
    (HERE / "motep.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
