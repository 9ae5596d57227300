"""Speed-up of loss and full gradient with two processes, over the silicon set.

    python -m benchmarks.distributed

214 structures, level 16, float64, one thread a process. Rounds of one process and two
take turns and the fastest of each count; the machine needs two free cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import torch

from benchmarks.common import ROOT, arguments, record, say
from benchmarks.systems import potential_for, silicon_set
from mtp.geometry import Geometry
from stages.control.defaults import TASK, stage
from stages.distributed import is_root, launched, together
from stages.objective import Objective
from stages.plan import coefficients
from stages.tasks import Draw, TaskData

LEVEL = "16"
CALLS = 10  # of one measurement


def main() -> None:
    if launched():
        with together(torch.device("cpu")):
            found = measure()
        if is_root():
            print(json.dumps(found))
        return
    options = arguments(__doc__.splitlines()[0])
    rounds = 1 if options.quick else 5
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for processes, found in times.items():
            found.append(run(processes))
            say(f"{processes} processes: {found[-1]:.3f} s per evaluation")
    fastest = {n: min(found) for n, found in times.items()}
    results = {"seconds": {str(n): t for n, t in times.items()}}
    results["speed_up"] = fastest[1] / fastest[2]
    results["cores"] = os.cpu_count()
    say(f"speed-up {results['speed_up']:.2f}")
    say(f"written: {record('distributed', results, options.quick)}")


def run(processes: int) -> float:
    """Seconds of one evaluation with so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, "-m", "benchmarks.distributed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout)


def measure() -> float:
    """Seconds of one evaluation, in this process with the others."""
    torch.set_num_threads(1)
    structures = silicon_set()
    potential = potential_for(LEVEL, structures, min_dist=1.6)
    train, valid = (
        Geometry(s, potential.spec.species, potential.spec.cutoff) for s in (structures, [])
    )
    setting = stage("stage1", 1, 1.0, coefficients(1.0, 0.01, 0.001))
    draws = [Draw(TASK, np.arange(len(structures)))]
    one = Objective(potential, setting, {TASK: TaskData.of(train, valid)}, draws, {TASK: 1.0})
    one.gradient()
    begun = time.perf_counter()
    for _ in range(CALLS):  # as often in every process
        one.gradient()
    return (time.perf_counter() - begun) / CALLS


if __name__ == "__main__":
    main()
