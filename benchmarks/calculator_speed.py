"""Time of energy, forces and stress through the ASE calculator, against MOTEP's.

    python -m benchmarks.calculator_speed

A thermal diamond lattice of 1000 atoms (28 neighbours within the cutoff of 5 Å) filled with 1, 2
or 5 elements. As in molecular dynamics the atoms move a little between the calls and the neighbour
lists are kept. One thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from benchmarks import peer
from benchmarks.common import arguments, per_atom, ratio, record, say, seconds, side_by_side
from benchmarks.systems import ELEMENTS, SIZES, labelled, potential_for, thermal_cell
from mtp.calculator import MTPCalculator
from mtp.kernels.cpu import library
from mtp.potential import Potential

STEP = 0.005  # Å, amplitude of the moves between calls: no list is found again
ENTRIES = ("mtp_run", "mtp_model_compute_graded")  # what of the library computes
MODES = ("float64", "float32", "nothing", "motep")


class DoNothing(Calculator):
    """What ASE itself costs."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        n = len(self.atoms)
        self.results = {"energy": 0.0, "forces": np.zeros((n, 3)), "stress": np.zeros(6)}


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    cases = [(size, n) for n in ELEMENTS for size in SIZES]
    if options.quick:
        cases = [("8", 1), ("SMALL", 5)]
    results = []
    for size, n_species in cases:
        row = compare(size, n_species, options.quick)
        results.append(row)
        t, r = row["times"], row["ratios"]
        say(
            f"{size}, {n_species} species: {t['float64']['cpu_us_per_atom']:.2f} µs/atom (kernel "
            f"{t['kernel']['cpu_us_per_atom']:.2f}, ASE {t['nothing']['cpu_us_per_atom']:.2f}), "
            f"float32 {t['float32']['cpu_us_per_atom']:.2f}, MOTEP "
            f"{t['motep']['cpu_us_per_atom']:.1f}: {r['motep/float64']:.1f} times"
        )
    say(f"written: {record('calculator_speed', results, options.quick)}")


def compare(
    size: str, n_species: int, quick: bool, only: tuple[str, ...] = MODES
) -> dict[str, Any]:
    """Times of the calculators on one cell, side by side, and what ours consists of."""
    cell = thermal_cell((3, 3, 3) if quick else (5, 5, 5), n_species)
    potential = potential_for(size, [labelled(cell)])
    calculators = {name: _make(name, potential) for name in only}
    steps = {name: stepper(cell, calculator) for name, calculator in calculators.items()}
    times = side_by_side(steps, rounds=3 if quick else 7)
    n = len(cell)
    row: dict[str, Any] = {
        "size": size,
        "species": n_species,
        "atoms": n,
        "times": {name: per_atom(t, n) for name, t in times.items()},
    }
    if set(only) == set(MODES):
        row["times"]["kernel"] = {"cpu_us_per_atom": 1e6 * kernel_seconds(steps["float64"]) / n}
        row["overhead"] = overhead(row["times"])
        row["ratios"] = {
            "motep/float64": ratio(times["motep"], times["float64"], n, n),
            "motep/float32": ratio(times["motep"], times["float32"], n, n),
            "float64/float32": ratio(times["float64"], times["float32"], n, n),
        }
        if n_species == 1 and size.isdigit():
            against_mlip3(int(size), row)
        row["agreement"] = agreement(cell, calculators)
        row["list_builds"] = calculators["float64"].list.builds
    return row


def overhead(times: dict[str, Any]) -> dict[str, float]:
    """What our calculator costs beside the kernel and ASE, and its share of the whole."""
    whole, kernel, nothing = (
        times[name]["cpu_us_per_atom"] for name in ("float64", "kernel", "nothing")
    )
    own = whole - kernel - nothing
    return {"us_per_atom": own, "share": own / whole}


def against_mlip3(level: int, row: dict[str, Any]) -> None:
    """Add MLIP-3's figure in this machine's time and the ratio to ours."""
    scale = peer.machine_scale(level, row["times"]["motep"]["cpu_us_per_atom"])
    mlip3 = scale * peer.MLIP3_CALCULATOR[level]
    row["times"]["mlip3"] = {"cpu_us_per_atom": mlip3}
    row["ratios"]["mlip3/float64"] = mlip3 / row["times"]["float64"]["cpu_us_per_atom"]


def stepper(cell: Atoms, calculator: Calculator) -> Callable[[], None]:
    """A step of molecular dynamics as a calculator sees it."""
    atoms = cell.copy()
    atoms.calc = calculator
    move = np.random.default_rng(2).normal(scale=STEP, size=(len(cell), 3))
    number = count()

    def step() -> None:
        atoms.positions = cell.positions + np.sin(next(number)) * move
        atoms.get_potential_energy()
        atoms.get_forces()
        atoms.get_stress()

    return step


def kernel_seconds(step: Callable[[], None], calls: int = 60) -> float:
    """Seconds of one step that are spent inside the library."""
    with kernel_clock() as clock:
        seconds(step, calls)
    return clock[0] / calls


@contextmanager
def kernel_clock() -> Iterator[list[float]]:
    """Adds up the seconds inside the library's functions in the list's only entry."""
    lib, clock = library(), [0.0]
    kept = {name: getattr(lib, name) for name in ENTRIES if hasattr(lib, name)}

    def timed(function: Callable) -> Callable:
        def call(*args: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args)
            finally:
                clock[0] += time.process_time() - start

        return call

    for name, function in kept.items():
        setattr(lib, name, timed(function))
    try:
        yield clock
    finally:
        for name, function in kept.items():
            setattr(lib, name, function)


def agreement(cell: Atoms, calculators: dict[str, Calculator]) -> dict[str, float]:
    """Largest relative difference of the forces from MOTEP's."""
    forces = {}
    for name in ("float64", "float32", "motep"):
        atoms = cell.copy()
        atoms.calc = calculators[name]
        forces[name] = atoms.get_forces()
    size = np.abs(forces["motep"]).max()
    names = ("float64", "float32")
    return {n: float(np.abs(forces[n] - forces["motep"]).max() / size) for n in names}


def _make(name: str, potential: Potential) -> Calculator:
    if name == "motep":
        return peer.calculator(potential)
    if name == "nothing":
        return DoNothing()
    return MTPCalculator(potential, device="cpu", dtype=name)


if __name__ == "__main__":
    main()
