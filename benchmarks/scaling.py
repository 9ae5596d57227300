"""Time and peak memory per atom from a hundred to a million atoms, with one and two threads.

    python -m benchmarks.scaling

Energy, forces and stress of the thermal silicon lattice through the ASE calculator, list kept, in
float64. Each point is a process of its own: its memory is the peak of the whole process less what
it was before the cell was made, including the building of the neighbour list.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
from statistics import median
from typing import Any

import torch

from benchmarks.calculator_speed import stepper
from benchmarks.common import MICRO, ROOT, arguments, record, say, seconds
from benchmarks.systems import labelled, potential_for, thermal_cell
from mtp.calculator import MTPCalculator

CELLS = ((2, 2, 3), (5, 5, 5), (10, 10, 13), (20, 25, 25), (50, 50, 50))
SIZES = ("SMALL", "16")
THREADS = (1, 2)
ENOUGH = 2.0  # seconds of measuring at each point
KIB = 1024


def main() -> None:
    point = {"nargs": 4, "help": argparse.SUPPRESS}
    largest = {"type": int, "default": 10**7, "help": "leave larger cells out"}
    options = arguments(__doc__.splitlines()[0], point=point, largest=largest)
    if options.point:
        cell, size, threads, enough = options.point
        print(json.dumps(measure(CELLS[int(cell)], size, int(threads), float(enough))))
        return
    results = []
    cells = range(2 if options.quick else len(CELLS))
    for size in SIZES:
        for cell in cells:
            for threads in THREADS:
                if 8 * math.prod(CELLS[cell]) <= options.largest:
                    results.append(in_a_process(cell, size, threads, options.quick))
    say(f"written: {record('scaling', results, options.quick)}")


def in_a_process(cell: int, size: str, threads: int, quick: bool) -> dict[str, Any]:
    """One point, measured in a new process."""
    point = [str(cell), size, str(threads), str(0.2 if quick else ENOUGH)]
    command = [sys.executable, "-m", "benchmarks.scaling", "--point", *point]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    row = json.loads(done.stdout)
    say(
        f"{size}, {row['atoms']} atoms, {threads} threads: {row['wall_us_per_atom']:.2f} µs/atom, "
        f"first call {row['first_us_per_atom']:.1f}, {row['bytes_per_atom'] / KIB:.1f} KiB/atom"
    )
    return row


def measure(repeats: tuple[int, int, int], size: str, threads: int, enough: float) -> dict:
    """Time of a call (wall, the threads' share in cpu), of the first call, and memory."""
    torch.set_num_threads(threads)
    potential = potential_for(size, [labelled(thermal_cell((2, 2, 2)))])
    calculator = MTPCalculator(potential, device="cpu")
    stepper(thermal_cell((1, 1, 1)), calculator)()  # load everything once
    before = peak_bytes()
    cell = thermal_cell(repeats)
    step = stepper(cell, calculator)
    first = seconds(step)
    times = [seconds(step)]
    while len(times) < 3 or sum(wall for wall, _ in times) < enough:
        times.append(seconds(step))
    walls, cpus = zip(*times, strict=True)
    n = len(cell)
    return {
        "size": size,
        "atoms": n,
        "threads": threads,
        "calls": len(times),
        "wall_us_per_atom": MICRO * median(walls) / n,
        "best_wall_us_per_atom": MICRO * min(walls) / n,
        "cpu_us_per_atom": MICRO * median(cpus) / n,
        "first_us_per_atom": MICRO * first[0] / n,
        "bytes_per_atom": (peak_bytes() - before) / n,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return KIB * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
