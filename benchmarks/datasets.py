"""The data sets of the accuracy benchmark: files, cutoff, and how much of them is used.

The folder is not part of the project: ../shared/data beside it, or where --data points. Its README
names the origin of each set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT
from mtp.data import write
from mtp.data.reading import read
from mtp.structure import Structure


@dataclass(frozen=True)
class DataSet:
    """Training file, test files and what the control file says of them."""

    train: str
    tests: tuple[str, ...]
    rc: float = 5.0
    frames: int | None = None  # a seeded part of the training file; None: all
    common: dict[str, Any] = field(default_factory=dict)  # further keys of common_config
    note: str = ""


def _pair(folder: str, rc: float = 5.0, **more: Any) -> DataSet:
    return DataSet(f"{folder}/train.xyz.gz", (f"{folder}/test.xyz.gz",), rc, **more)


def _phonon(name: str, rc: float = 6.0) -> DataSet:
    return DataSet(f"phonon_rd/{name}_train.xyz*", (f"phonon_rd/{name}_test.xyz*",), rc)


ENERGIES = "energies only"
DEMO = ROOT / "configs" / "demo"
SETS: dict[str, DataSet] = {
    # The bundled copy, in which exchanged stress components are put right (configs/demo/README.md).
    "Si": DataSet(f"{DEMO}/train.xyz.gz", (f"{DEMO}/test.xyz.gz",)),
    **{element: _pair(f"mlearn/{element}") for element in ("Cu", "Mo", "Li")},
    "CuPd": DataSet("cupd/train.xyz.gz", ("cupd/test.xyz",)),
    "AlCuNi": DataSet("alcuni/train.xyz.gz", ("alcuni/test.xyz",)),
    "NbMoTaW": _pair("nbmotaw", frames=1200),
    "Fe AFM": _pair("fe_afm"),
    "LiTi2O4": _pair("liti2o4", 6.0),
    "MgO": _pair("mgo", 6.0, frames=300),
    "NiO": _pair("nio_spin", 6.0),
    "MAPbI3": _pair("mapbi3_scan", 6.0),
    "AlN phonons": _phonon("AlN"),
    "C phonons": _phonon("C_diamond", 5.0),
    "KCl phonons": _phonon("KCl"),
    "MgO phonons": _phonon("MgO"),
    "NaCl phonons": _phonon("NaCl"),
    "universal": _pair("universal", frames=800),
    "ethanol": _pair("qm22/ethanol_b3lyp"),
    "methane": _pair("qm22/methane_b3lyp"),
    "N-methylacetamide": _pair("qm22/nma_b3lyp"),
    "tropolone": _pair("qm22/tropolone_b3lyp"),
    "hydronium": _pair("qm22/hydronium_ccsdt", note=ENERGIES),
    "3BPA": DataSet("3bpa/train_300K.xyz.gz", ("3bpa/mixedT_not_in_300K.xyz.gz",)),
    "acac 300 K": DataSet(
        "acac/train_300K.xyz.gz", ("acac/test_MD_300K.xyz.gz", "acac/test_MD_600K.xyz.gz")
    ),
    "acac 600 K": DataSet("acac/train_600K.xyz.gz", ("acac/test_MD_600K.xyz.gz",)),
    "ANI-1x": _pair("ani_1x", frames=600),
    "combustion": _pair("combustion_mn15", frames=1000, common={"max_forces": 20.0}),
    "EC/EMC": _pair("ec_emc", 6.0),
    "water clusters": DataSet(
        "water_clusters_ccsd/train.xyz.gz",
        (
            "water_clusters_ccsd/test_tetramer.xyz",
            "water_clusters_ccsd/test_hexamer_proton_transfer.xyz",
        ),
    ),
    "liquid water": _pair("water_pbe0ts", 6.0, frames=120),
    "water monomer": _pair("tensor_molecules/water_monomer_ccsd", note=ENERGIES),
    "water dimer": _pair("tensor_molecules/water_dimer_ccsd", 6.0, note=ENERGIES),
}


def files(folder: Path, dataset: DataSet, work: Path, quick: bool) -> tuple[Path, list[Path]]:
    """Training file, a part of it written to `work` where the set is large, and test files."""
    train = _find(folder, dataset.train)
    wanted = 40 if quick else dataset.frames
    if wanted is not None:
        frames = read(train)
        if len(frames) > wanted:
            train = work / "train.xyz"
            write(train, part(frames, wanted))
    return train, [_find(folder, name) for name in dataset.tests]


def part(frames: Sequence[Structure], count: int, seed: int = 0) -> list[Structure]:
    """`count` frames in their order, drawn with a seed; every element stays where possible."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(frames))
    chosen: set[int] = set()
    known: set[int] = set()
    for i in order:  # first one frame for each element
        elements = set(map(int, frames[i].numbers))
        if not elements <= known:
            chosen.add(int(i))
            known |= elements
    rest = [int(i) for i in order if int(i) not in chosen]
    chosen |= set(rest[: max(0, count - len(chosen))])
    return [frames[i] for i in sorted(chosen)]


def _find(folder: Path, pattern: str) -> Path:
    whole = folder / pattern  # the pattern itself where it is an absolute path
    found = sorted(whole.parent.glob(whole.name))
    if not found:
        raise SystemExit(f"{folder / pattern}: no such file; say where the data are with --data")
    return found[0]
