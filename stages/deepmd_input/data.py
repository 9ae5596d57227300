"""Systems, batches and steps of an input → files, batch_size and epochs."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.deepmd_input.forms import Branch
from stages.deepmd_input.keys import Keys, Notes

VALID_FRACTION = 0.1  # that of data_config
AUTO_ATOMS = 32  # what "auto" fills a batch up to


@dataclass(frozen=True)
class System:
    """A folder of DeePMD data: frames in all its systems, atoms of the smallest."""

    frames: int
    atoms: int


def data_of(branch: Branch, source: Path, target: Path) -> dict[str, Any]:
    """The data of a task: training systems to train on, validation systems to test on."""
    files = _files(branch.training, source, target)
    found = {"files": files} if files else {}
    named = _files(branch.validation, source, target) if branch.validation.data else []
    tested = [name for name in named if name not in files]
    for name in sorted({*named} - {*tested}):
        branch.validation.note("systems", f"{name}: trained on as well, so not a test file")
    if tested:
        found["test_files"] = tested
        branch.validation.note(
            "systems",
            "are test_files here: validation frames are a tenth of the training data",
        )
    for name in ("batch_size", "numb_btch"):
        branch.validation.take(name)
    branch.validation.close()
    return found


def _files(section: Keys, source: Path, target: Path) -> list[str]:
    """The systems as paths relative to the control file."""
    systems = section.take("systems", default=[])
    systems = [systems] if isinstance(systems, str) else systems
    found = []
    for system in systems:
        if ".hdf5" in system or "#" in system:
            section.note("systems", f"{system}: HDF5 of DeePMD-kit is not read; write npy folders")
        path = Path(system)
        if not path.is_absolute():
            path = Path(os.path.relpath(source.absolute().parent / path, target.absolute().parent))
        found.append(path.as_posix())
    return list(dict.fromkeys(found))


def systems_of(files: list[str], target: Path) -> list[System] | None:
    """What the files of a task hold; None if one is not there, or none is named."""
    if not files:
        return None
    found = [_system((target.absolute().parent / file).resolve()) for file in files]
    return None if None in found else found


def _system(folder: Path) -> System | None:
    """Frames and atoms in a folder, from the headers of its files."""
    frames, atoms = 0, []
    for types in sorted(folder.rglob("type.raw")):
        atoms.append(len(types.read_text().split()))
        for file in types.parent.glob("set.*/coord.npy"):
            frames += len(np.load(file, mmap_mode="r"))
    return System(frames, min(atoms)) if frames else None


def batch_size(branch: Branch, systems: list[System] | None) -> int:
    """Structures in a batch of a task."""
    section = branch.training
    asked = section.take("batch_size", default="auto")
    for name in ("auto_prob", "sys_probs", "auto_prob_style"):
        if section.take(name) not in (None, "prob_sys_size"):
            section.note(name, "every frame is drawn equally often here")
    section.take("numb_btch")
    section.close()
    if isinstance(asked, list):
        section.note("batch_size", f"one size serves all systems here: {min(asked)}")
        return min(asked)
    if isinstance(asked, int):
        return asked
    kind, _, number = str(asked).partition(":")
    if kind == "mixed" and number.isdigit():
        return int(number)
    wanted = int(number) if number.isdigit() else AUTO_ATOMS
    atoms = min((system.atoms for system in systems or ()), default=wanted)
    size = max(1, wanted // atoms if kind == "max" else math.ceil(wanted / atoms))
    section.note("batch_size", f"{asked!r} is {size} structures of {atoms} atoms here")
    return size


def one_size(sizes: dict[str, int], notes: Notes) -> int:
    """The batch size of all tasks: the smallest."""
    if len(set(sizes.values())) > 1:
        every = ", ".join(f"{name} {size}" for name, size in sizes.items())
        notes.add("training/batch_size", f"differ ({every}): the smallest serves all tasks here")
    return min(sizes.values())


def batches(systems: list[System] | None, size: int) -> int | None:
    """Batches in one pass through the training frames of a task; None: not known."""
    if systems is None:
        return None
    frames = sum(system.frames for system in systems)
    return math.ceil((frames - max(1, round(VALID_FRACTION * frames))) / size)
