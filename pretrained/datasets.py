"""Public DFT sets of the pretrained models: which task each belongs to, and which are left out.

The sets are not part of the package. Every level of theory is a task of its own; sets of one task
come from one program with one setting, so that their energies can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import mtp.data
from mtp.baseline import fit_shifts
from mtp.data.scan import energy_per_atom, largest_force
from mtp.errors import InvalidInput
from mtp.structure import Structure

MOST = 120  # frames of a set that adds forces to a task
SEED = 20241
OUTLIER = 8.0  # eV/atom from the sum of species shifts: another reference, or an atom too close


@dataclass(frozen=True)
class DftSet:
    """A task from published data.

    files: relative to the folder of the sets.  max_forces: eV/Å, frames with more are left out.
    more: files of the same level whose energies count from another zero; of these at most ``MOST``
    frames each, forces and stresses only.
    """

    task: str
    level: str
    files: tuple[str, ...]
    source: str
    licence: str
    max_forces: float = 15.0
    more: tuple[str, ...] = ()


SETS = (
    DftSet(
        "pbe",
        "PBE(+U), VASP",
        ("universal/train.xyz.gz",),
        "MatterSim benchmark data: MPtrj, Alexandria and high-temperature, high-pressure cells "
        "(arXiv 2405.04967, 10.1038/s42256-023-00716-3, 10.1002/adma.202210788); forces and "
        "stresses of mlearn's Cu and Li (10.1021/acs.jpca.9b08723), Cu-Pd "
        "(10.1016/j.commatsci.2018.09.031), Al-Cu-Ni, Li3N (10.1038/s41524-019-0212-1), MgO and Fe "
        "(10.1063/5.0129045), MgO and diamond (phonopy's examples)",
        "MIT; MPtrj and Alexandria CC-BY-4.0; BSD",
        more=(
            "mlearn/Cu/train.xyz.gz",
            "mlearn/Li/train.xyz.gz",
            "cupd/train.xyz.gz",
            "alcuni/train.xyz.gz",
            "li3n/train.xyz",
            "mgo/train.xyz.gz",
            "fe_afm/train.xyz.gz",
            "phonon_rd/MgO_train.xyz.gz",
            "phonon_rd/C_diamond_train.xyz",
        ),
    ),
    DftSet(
        "wb97x",
        "ωB97X/6-31G(d)",
        (
            "ani_1x/train.xyz.gz",
            "3bpa/train_300K.xyz.gz",
            "3bpa/mixedT_not_in_300K.xyz.gz",
            "s66x8_wb97x/all.xyz.gz",
        ),
        "subset of ANI-1x (10.1038/s41597-020-0473-z), 3BPA (10.1021/acs.jctc.1c00647), S66x8 "
        "(COMP6, 10.1063/1.5023802)",
        "CC0; MIT",
    ),
    DftSet(
        "b3lyp",
        "B3LYP",
        (
            "qm22/methane_b3lyp/train.xyz.gz",
            "qm22/nma_b3lyp/train.xyz.gz",
            "qm22/tropolone_b3lyp/train.xyz.gz",
        ),
        "QM-22: methane, N-methylacetamide, tropolone (10.1063/5.0089200)",
        "Apache-2.0",
    ),
    DftSet(
        "mn15",
        "MN15/6-31G**",
        ("combustion_mn15/train.xyz.gz",),
        "methane combustion (10.1038/s41467-020-19497-z)",
        "LGPL-3.0",
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
        missing = [name for name in (*one.files, *one.more) if not (data / name).exists()]
        if missing:
            raise InvalidInput(f"{data}: has no {', '.join(missing)}; name the folder of the sets")
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".partial-{target.name}")
        frames = _frames(one, data, set(species))
        mtp.data.write(partial, [*frames, *_forces_of_more(one, data, set(species))])
        partial.replace(target)
    return target


def _frames(one: DftSet, data: Path, species: set[int]) -> list[Structure]:
    """Frames with moderate forces, and energies near the sum of shifts."""
    kept = [item for name in one.files for item in _moderate(one, data / name, species)]
    shifts = fit_shifts(kept, sorted({z for item in kept for z in item.numbers.tolist()}))
    return [item for item in kept if abs(energy_per_atom(item, shifts)) < OUTLIER]


def _forces_of_more(one: DftSet, data: Path, species: set[int]) -> list[Structure]:
    """A seeded choice of frames of every further set, without their energies."""
    found = []
    for name in one.more:
        frames = _moderate(one, data / name, species)
        order = np.random.default_rng(SEED).permutation(len(frames))[:MOST]
        found += [replace(frames[i], energy=None) for i in sorted(order)]
    return found


def _moderate(one: DftSet, path: Path, species: set[int]) -> list[Structure]:
    """Frames of a file that hold only these species and no force above the limit."""
    return [
        item
        for item in mtp.data.read(path)
        if set(item.numbers.tolist()) <= species
        and (item.forces is None or largest_force(item) <= one.max_forces)
    ]
