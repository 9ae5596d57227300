"""Make silicon.mtp: a rough but well-behaved silicon potential for tests of dynamics.

    python tests/reference/make_silicon.py

Random radial functions, linear coefficients by least squares on a part of the demo's frames.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import ase.io
import numpy as np
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from mtp.geometry import Geometry  # noqa: E402
from mtp.mlip_file import write_mtp  # noqa: E402
from mtp.potential import Potential, PotentialSpec  # noqa: E402
from mtp.structure import Structure  # noqa: E402

WEIGHT = 30.0  # of energies per atom and stresses against forces
STRIDE = 4  # every fourth frame is plenty for the test's purpose


def structures() -> list[Structure]:
    """Frames of the demo's training set."""
    with gzip.open(ROOT / "configs" / "demo" / "train.xyz.gz", "rt") as file:
        frames = ase.io.read(file, f"::{STRIDE}", format="extxyz")
    return [
        Structure(
            a.numbers,
            a.positions,
            a.cell.array,
            a.pbc,
            a.get_potential_energy(),
            a.get_forces(),
            a.get_stress(),
        )
        for a in frames
    ]


def main() -> None:
    """Fit and write."""
    spec = PotentialSpec((14,), cutoff=5.0, min_dist=2.1, n_q=8, levmax=8, moment_mu_cost=1)
    potential = Potential(spec)
    with torch.no_grad():
        values = np.random.default_rng(0).uniform(-0.1, 0.1, tuple(potential.radial.shape))
        potential.radial.copy_(torch.from_numpy(values))
    batch = Geometry(structures(), spec.species, spec.cutoff).batch()
    energy, forces, stress = potential.linear_rows(batch, "default").values()
    given = batch.labels
    weight = WEIGHT / batch.atoms_per_structure
    shift = torch.zeros(given["forces"].numel() + len(weight) * 6, dtype=torch.float64)
    matrix = torch.cat(
        [weight[:, None] * energy, forces.flatten(0, 1), WEIGHT * stress.flatten(0, 1)]
    )
    matrix = torch.cat([matrix, torch.cat([torch.full_like(weight, WEIGHT), shift])[:, None]], 1)
    labels = torch.cat(
        [weight * given["energy"], given["forces"].flatten(), WEIGHT * given["stress"].flatten()]
    )
    scale = matrix.norm(dim=0)
    solution = torch.linalg.lstsq(matrix / scale, labels, driver="gelsd", rcond=1e-8).solution
    solution = solution / scale
    residual = (matrix @ solution - labels)[len(weight) :]
    error = residual[: given["forces"].numel()].abs().mean()
    with torch.no_grad():
        potential.heads["default"].last.weight[0] = solution[:-1]
        potential.heads["default"].shifts[0] = solution[-1]
    write_mtp(HERE / "silicon.mtp", potential)
    print(f"mean absolute error of the forces: {1000 * error:.0f} meV/Å")


if __name__ == "__main__":
    main()
