"""Test errors of dipoles and polarizabilities by level, linear and gated by a network.

    python -m benchmarks.tensors [--sets NAME ...] [--budget SECONDS]

Every entry is one run of `mtp-train` in a process of its own with one thread. Finished entries stay
in results/tensors.json and are skipped the next time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import finished, same
from benchmarks.common import ROOT, arguments, record, say
from benchmarks.tasks import one_run
from mtp.data import read

SETS = {  # folder, cutoff, epochs, (level, hidden layers)
    "water monomer": (
        "tensor_molecules/water_monomer_ccsd", 5.0, 160,
        [(8, []), (12, []), (16, []), (8, [16]), (12, [16])],
    ),
    "water dimer": (
        "tensor_molecules/water_dimer_ccsd", 6.0, 160,
        [(8, []), (12, []), (16, []), (8, [16]), (12, [16])],
    ),
    "liquid water": ("water_liquid_tensors", 6.0, 80, [(8, []), (12, []), (8, [16])]),
}  # fmt: skip
KINDS = {"dipole": "dipole", "polarizability": "polar"}


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        sets={"nargs": "+", "choices": list(SETS), "default": list(SETS)},
        budget={"type": float, "help": "start nothing new after so many seconds"},
        data={"type": Path, "default": ROOT.parent / "shared" / "data"},
        again={"action": "store_true", "help": "train finished entries anew"},
    )
    results = [] if options.again else finished("tensors", options.quick)
    begun = time.monotonic()
    for entry, control in entries(options):
        if any(same(entry, row) for row in results):
            continue
        if options.budget is not None and time.monotonic() - begun > options.budget:
            say("the budget is spent; the same command goes on from here")
            return
        row = one_run(entry, control, options.quick)
        test = options.data / SETS[entry["set"]][0] / "test.xyz.gz"
        results.append(row | {"spread_per_atom": spread(test, entry["kind"])})
        record("tensors", results, options.quick)


def entries(options: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Entry and control file of each run."""
    for name in options.sets:
        folder, rc, epochs, models = SETS[name]
        data = {f"{what}files": [str(options.data / folder / f"{part}.xyz.gz")]
                for what, part in (("", "train"), ("test_", "test"))}  # fmt: skip
        for kind, word in KINDS.items():
            for level, hidden in models[:1] if options.quick else models:
                task = {"type": word, "level": level, "data": data, "readout": {"neuron": hidden}}
                control = {
                    "common_config": {"total_epoch": epochs},
                    "mtp_config": {"rc": rc, "levmax": level},
                    "tasks": {kind: task},
                }
                yield {"set": name, "kind": kind, "level": level, "hidden": hidden}, control


def spread(path: Path, kind: str) -> float:
    """Standard deviation of a component of the labels over the frames, per atom."""
    frames = [frame for frame in read(path) if frame.label(kind) is not None]
    labels = np.array([frame.label(kind) / len(frame) for frame in frames])
    return float(np.sqrt(labels.var(axis=0).mean()))


if __name__ == "__main__":
    main()
