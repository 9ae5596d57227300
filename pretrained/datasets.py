"""Public DFT sets of the pretrained models: which task each belongs to, and which are left out.

The sets are not part of the package. Every level of theory is a task of its own; sets of one task
come from one program with one setting, so that their energies can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mtp.data
from mtp.baseline import fit_shifts
from mtp.data.scan import energy_per_atom, largest_force
from mtp.errors import InvalidInput
from mtp.structure import Structure

OUTLIER = 8.0  # eV/atom from the sum of species shifts: another reference, or an atom too close


@dataclass(frozen=True)
class DftSet:
    """A task from published data.

    files: relative to the folder of the sets.  max_forces: eV/Å, frames with more are left out.
    """

    task: str
    level: str
    files: tuple[str, ...]
    source: str
    licence: str
    max_forces: float = 15.0


SETS = (
    DftSet(
        "pbe",
        "PBE(+U), VASP",
        ("universal/train.xyz.gz",),
        "MatterSim benchmark data: MPtrj, Alexandria and high-temperature, high-pressure cells "
        "(arXiv 2405.04967, 10.1038/s42256-023-00716-3, 10.1002/adma.202210788)",
        "MIT; MPtrj and Alexandria CC-BY-4.0",
    ),
    DftSet(
        "wb97x",
        "ωB97X/6-31G(d)",
        ("ani_1x/train.xyz.gz", "3bpa/train_300K.xyz.gz", "3bpa/mixedT_not_in_300K.xyz.gz"),
        "subset of ANI-1x (10.1038/s41597-020-0473-z) and 3BPA (10.1021/acs.jctc.1c00647)",
        "CC0; MIT",
    ),
    DftSet(
        "mn15",
        "MN15/6-31G**",
        ("combustion_mn15/train.xyz.gz",),
        "methane combustion (10.1038/s41467-020-19497-z)",
        "LGPL-3.0",
    ),
    DftSet(
        "pbe_alloy",
        "PBE, VASP",
        ("cupd/train.xyz.gz",),
        "Cu-Pd (10.1016/j.commatsci.2018.09.031)",
        "BSD-2-Clause",
    ),
    DftSet(
        "pbe_oxide",
        "PBE, VASP",
        ("mgo/train.xyz.gz",),
        "MgO (10.1063/5.0129045)",
        "BSD-3-Clause",
    ),
)
"""What the models are trained on besides the synthetic corpus."""

HELD_OUT = {
    "silicon": ("mlearn/Si",),
    "nbmotaw": ("nbmotaw",),
    "liti2o4": ("liti2o4",),
    "ethanol": ("qm22/ethanol_b3lyp",),
    "acac": ("acac",),
    "ec_emc": ("ec_emc",),
    "water": ("water_pbe0ts",),
}
"""Whole sets that no model has seen: an elemental solid, an alloy, an oxide, molecules, liquids."""


def prepare(one: DftSet, data: Path, folder: Path, species: Sequence[int]) -> Path:
    """Write the frames of a set that hold only ``species`` as ``folder/TASK.xyz.gz``."""
    target = folder / f"{one.task}.xyz.gz"
    if not target.exists():
        missing = [name for name in one.files if not (data / name).exists()]
        if missing:
            raise InvalidInput(f"{data}: has no {', '.join(missing)}; name the folder of the sets")
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".partial-{target.name}")
        mtp.data.write(partial, _frames(one, data, set(species)))
        partial.replace(target)
    return target


def _frames(one: DftSet, data: Path, species: set[int]) -> list[Structure]:
    """Frames of these species with moderate forces, and energies near the sum of shifts."""
    kept = []
    for item in (item for name in one.files for item in mtp.data.read(data / name)):
        forces = 0.0 if item.forces is None else largest_force(item)
        if set(item.numbers.tolist()) <= species and forces <= one.max_forces:
            kept.append(item)
    shifts = fit_shifts(kept, sorted({z for item in kept for z in item.numbers.tolist()}))
    return [item for item in kept if abs(energy_per_atom(item, shifts)) < OUTLIER]
