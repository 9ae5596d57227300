"""A light student of a classical potential: sampled, labelled, trained, validated against it.

    python -m benchmarks.distillation [--frames 10 40]

The path of docs/pretrained.md, "Distil a teacher": structures around silicon's crystal, labels of
the Stillinger-Weber potential (LAMMPS), students that start from pretrained models and from
scratch, test errors on dynamics that no student saw, and properties of the crystal by both.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.build import bulk
from ase.io import write

from benchmarks.accuracy import children
from benchmarks.common import ROOT, arguments, record, say
from benchmarks.finetuning import control_file
from mtp.teachers import teacher
from pretrained.samplers import compress, displace, dynamics, rattle, strain, vacancy
from stages.validate import compare

TEACHER = "lammps:pair_style sw; pair_coeff * * Si.sw Si"
WORK = ROOT / "runs" / "distillation"
MODELS = ("ALL_ELEMENTS_SMALL_NN_6", "ALL_ELEMENTS_LARGE_6")
FRAMES = (10, 40)
TEMPERATURES = (300, 900, 1500)


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        frames={"nargs": "+", "type": int, "default": list(FRAMES)},
        models={"nargs": "+", "default": list(MODELS)},
    )
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    write(WORK / "cell.xyz", bulk("Si", cubic=True))
    labelled("test", list(heated(seeds=(10, 11, 12), count=4 if options.quick else 10)))
    results = []
    for frames in options.frames[:1] if options.quick else options.frames:
        labelled(f"train{frames}", sampled(frames))
        for model in options.models[:1] if options.quick else options.models:
            for start in ("scratch", "pretrained"):
                entry = {"model": model, "start": start, "plan": "none", "frames": frames}
                results.append(student(entry, options.quick))
                record("distillation", results, options.quick, teacher=TEACHER)


def sampled(frames: int) -> list[Atoms]:
    """So many structures: a part each rattled, strained, compressed, with defects, and heated."""
    cell, share = bulk("Si", cubic=True) * 2, frames // 5
    found = [
        *rattle(cell, share, seed=0),
        *strain(cell, share, seed=1, largest=0.06),
        *compress(cell, share, seed=2, scale=(0.93, 1.07)),
        *displace(cell, share // 2, seed=3),
        *vacancy(cell, share - share // 2, seed=4),
    ]
    rest = frames - len(found)
    return found + list(heated(seeds=(0, 1, 2), count=-(-rest // 3)))[:rest]


def heated(seeds: tuple[int, ...], count: int) -> Iterator[Atoms]:
    """Frames of the teacher's own dynamics."""
    cell = bulk("Si", cubic=True) * 2
    for seed, kelvin in zip(seeds, TEMPERATURES, strict=True):
        yield from dynamics(cell, teacher(TEACHER), kelvin, count=count, seed=seed, every=50)


def labelled(name: str, structures: list[Atoms]) -> None:
    """NAME.xyz with the teacher's labels."""
    write(WORK / f"{name}.in.xyz", structures)
    program("mtp", "label", TEACHER, str(WORK / f"{name}.in.xyz"), str(WORK / f"{name}.xyz"))


def student(entry: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Train, test on the teacher's dynamics, and compare properties."""
    say(" ".join(map(str, entry.values())))
    work = WORK / "-".join(map(str, entry.values()))
    data = {"files": [f"../train{entry['frames']}.xyz"], "test_files": ["../test.xyz"]}
    control = control_file(entry, {}) | {"data_config": data}
    work.mkdir()
    (work / "control.json").write_text(json.dumps(control, indent=1))
    begun = children()
    program("mtp-train", str(work / "control.json"), "--output", str(work / "run"))
    seconds = children() - begun
    test = json.loads((work / "run" / "metrics.json").read_text())["default"]["test"]
    cell, best = str(WORK / "cell.xyz"), str(work / "run" / "best.mtp.safetensors")
    some = ["--properties", "eos", "elastic"] if quick else []
    against = ("--against", TEACHER, "--output", str(work / "check"))
    program("mtp", "validate", best, cell, *against, *some)
    rows = compare(json.loads((work / "check" / "properties.json").read_text()))
    return {
        **entry,
        "cpu_seconds": seconds,
        "test": {key: value for key, value in test.items() if "_mae_" in key},
        "properties": [
            {"quantity": quantity, "unit": unit, "student": mine, "teacher": theirs}
            for quantity, unit, mine, theirs in rows
        ],
    }


def program(name: str, *arguments: str) -> None:
    """One of the package's commands on one thread."""
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-1000:])


if __name__ == "__main__":
    main()
