"""Test errors on silicon of potentials trained by the peer program MOTEP, beside ours.

    python -m benchmarks.peer_training [--levels 8 12] [--iterations 400]

MOTEP trains by its own command with its default weights, first its linear least squares, then BFGS
on all coefficients, from the start of our runs. Both programs see all 214 structures or what they
leave for validation (MOTEP none, we a tenth). Seconds are CPU time of one thread.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

from benchmarks.accuracy import children
from benchmarks.common import ROOT, arguments, record, say
from benchmarks.systems import SIZES
from mtp.mlip_file import write_mtp
from stages.control.reader import read_control
from stages.control.resolve import resolve
from stages.run.start import starting_point
from stages.run.train import read_data

DEMO = ROOT / "configs" / "demo"
MILLI, GPA = 1e3, 160.21766208
SETTING = """
[common]
species = [14]
seed = 0
engine = "cext"
[configurations]
training = ["train.xyz"]
[potentials]
initial = "initial.mtp"
final = "final.mtp"
[[steps]]
method = "LLS"
optimized = ["species_coeffs", "moment_coeffs"]
[[steps]]
method = "BFGS"
[steps.kwargs.options]
maxiter = {iterations}
"""


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        levels={"nargs": "+", "choices": [s for s in SIZES if s.isdigit()], "default": ["8"]},
        iterations={"type": int, "default": 400, "help": "of BFGS at most"},
    )
    results = []
    for level in options.levels[:1] if options.quick else options.levels:
        work = ROOT / "runs" / "benchmarks" / f"motep-{level}"
        work.mkdir(parents=True, exist_ok=True)
        begin(work, level)
        results.append(train(work, 3 if options.quick else options.iterations) | {"level": level})
        record("peer_training", results, options.quick)


def begin(work: Path, level: str) -> None:
    """Files of a run of MOTEP: structures and the untrained potential of a run of ours."""
    for name in ("train", "test"):
        with gzip.open(DEMO / f"{name}.xyz.gz", "rt") as file:
            ase.io.write(work / f"{name}.xyz", ase.io.read(file, ":", format="extxyz"))
    (work / "control.json").write_text(json.dumps({"mtp_config": {"rc": 5.0, **SIZES[level]}}))
    plan = resolve(read_control(work / "control.json"), data=[str(work / "train.xyz")])
    potential, _ = starting_point(plan, {"default": read_data(plan, "default")})
    write_mtp(work / "initial.mtp", potential)


def train(work: Path, iterations: int) -> dict[str, Any]:
    """One run of `motep train` and its errors on the test set."""
    (work / "motep.toml").write_text(SETTING.format(iterations=iterations))
    say(f"{work.name} …")
    wall, cpu = time.perf_counter(), children()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("motep")), "train", "motep.toml"],
        cwd=work,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    (work / "motep.log").write_text(done.stdout + done.stderr)
    row = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": children() - cpu}
    if done.returncode:
        say(done.stderr[-500:])
        return row | {"failed": done.stderr.strip().splitlines()[-1:]}
    row |= {"iterations": iterations, "test": errors(work)}
    say(f"   {row['test']} after {row['cpu_seconds']:.0f} s")
    return row


def errors(work: Path) -> dict[str, float]:
    """Mean absolute errors of the final potential by MOTEP's calculator."""
    from motep.calculator import MTP
    from motep.io.mlip.mtp import read_mtp

    text = (work / "final.mtp").read_text()
    for short, name in (("min", "min_dist"), ("max", "max_dist"), ("size", "radial_basis_size")):
        text = text.replace(f"\n\t{short} =", f"\n\t{name} =")  # as its reader knows them
    count = re.search(r"radial_funcs_count = \d+", (work / "initial.mtp").read_text())[0]
    (work / "result.mtp").write_text(text.replace("\tradial_coeffs", f"\t{count}\n\tradial_coeffs"))
    data = read_mtp(work / "result.mtp")
    data.species = [14]
    found: dict[str, list[np.ndarray]] = {"energy": [], "forces": [], "stress": []}
    for atoms in ase.io.read(work / "test.xyz", ":"):
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        stress = atoms.get_stress()
        atoms.calc = MTP(data, engine="cext")
        found["energy"].append(
            np.atleast_1d((atoms.get_potential_energy() - energy) / len(atoms) * MILLI)
        )
        found["forces"].append((atoms.get_forces() - forces).ravel() * MILLI)
        found["stress"].append((atoms.get_stress() - stress) * GPA)
    return {
        f"{term}_{name}": float(how(np.concatenate(parts)))
        for term, parts in found.items()
        for name, how in (("mae", _mae), ("rmse", _rmse))
    }


def _mae(x: np.ndarray) -> float:
    return np.abs(x).mean()


def _rmse(x: np.ndarray) -> float:
    return np.square(x).mean() ** 0.5


if __name__ == "__main__":
    main()
