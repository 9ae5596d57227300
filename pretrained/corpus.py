"""The synthetic data of the pretrained models: what is sampled and which teacher labels it.

Every part is a generator with a fixed seed and a size: `size` 1 is the published corpus, smaller
ones keep its composition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ase import Atoms
from ase.calculators.calculator import CalculationFailed

import mtp.data
from mtp.data.formats.ase_files import frame_of
from mtp.data.labels import LabelKeys, Seen, structure
from mtp.structure import Structure
from mtp.teachers import teacher
from pretrained.labelling import Labelled, label
from pretrained.samplers import (
    clusters,
    conformers,
    dimers,
    displace,
    dynamics,
    packed,
    rattle,
    strain,
)
from pretrained.samplers.clusters import LIGANDS

ALL = tuple(range(1, 87))  # what xTB knows: H … Rn
ORGANIC = (1, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53)
SEED = 20240
# Hot electrons: open shells and metal clusters converge, and their energies are smooth.
HOT, COLD = "tblite:GFN1-xTB@3000K", "tblite:GFN2-xTB"
LEVELS = {
    "gfn1": "GFN1-xTB, electrons at 3000 K (tblite)",
    "gfn2": "GFN2-xTB (tblite)",
}
LARGEST = 14  # atoms of a molecule that moves by molecular dynamics


@dataclass(frozen=True)
class Part:
    """A part of a corpus: its name is that of its file."""

    name: str
    teacher: str
    sample: Callable[[float], Iterator[Atoms]]


def molecules(count: int, seed: int = SEED, size: float = 1.0) -> Iterator[Atoms]:
    """``count`` conformers of every molecule of smiles.txt, of a share ``size`` of its lines."""
    lines = files("pretrained").joinpath("smiles.txt").read_text(encoding="utf-8").splitlines()
    smiles = [line for line in lines if line and not line.startswith("# ")]
    every = max(1, round(1 / size))
    for i, line in enumerate(smiles[::every]):
        yield from conformers(line, count, seed + i)


def _pairs(size: float) -> Iterator[Atoms]:
    for number in ALL:
        yield Atoms([number], [[0, 0, 0]], info={"config_type": "atom"})
    yield from dimers(ALL, max(1, round(6 * size)), SEED)


def _clusters(size: float) -> Iterator[Atoms]:
    yield from clusters(ALL, round(12000 * size), SEED + 1, (3, 6))
    yield from clusters(ALL, round(12000 * size), SEED + 2, (3, 6), LIGANDS)


def _organic_pairs(size: float) -> Iterator[Atoms]:
    for number in ORGANIC:
        yield Atoms([number], [[0, 0, 0]], info={"config_type": "atom"})
    yield from dimers(ORGANIC, max(1, round(20 * size)), SEED + 5)
    yield from clusters(ORGANIC, round(1500 * size), SEED + 6, (3, 6))


def _organic_rattled(size: float) -> Iterator[Atoms]:
    for i, molecule in enumerate(molecules(2, size=size)):
        seed = SEED + 100 * i
        yield from rattle(molecule, 6, seed, 0.15)
        yield from rattle(molecule, 2, seed + 1, 0.4)
        yield from strain(molecule, 2, seed + 2, 0.15)
        yield from displace(molecule, 2, seed + 3, 0.8)


def _organic_packed(size: float) -> Iterator[Atoms]:
    small = [atoms for atoms in molecules(1, size=size) if len(atoms) <= 10]
    for i, cluster in enumerate(packed(small, round(1200 * size), SEED + 7)):
        yield from rattle(cluster, 1, SEED + i, 0.1)


def _organic_dynamics(size: float) -> Iterator[Atoms]:
    calculator = teacher("tblite:GFN1-xTB")
    for i, molecule in enumerate(molecules(1, SEED + 8, size)):
        if not 2 < len(molecule) <= LARGEST:
            continue
        for temperature in (500, 1500):
            seed = SEED + 10 * i + temperature
            try:
                yield from dynamics(molecule, calculator, temperature, 6, seed, 6, 1.0, 24)
            except CalculationFailed:  # radicals of broken molecules may not converge
                continue


CORPUS = (
    Part("gfn1_pairs", HOT, _pairs),
    Part("gfn1_clusters", HOT, _clusters),
    Part("gfn2_pairs", COLD, _organic_pairs),
    Part("gfn2_rattled", COLD, _organic_rattled),
    Part("gfn2_packed", COLD, _organic_packed),
    Part("gfn2_dynamics", COLD, _organic_dynamics),
)


def build(part: Part, folder: Path, size: float = 1.0, workers: int = 1) -> Labelled | None:
    """Sample and label a part as ``folder/NAME.xyz.gz``; None where it is there already."""
    target = folder / f"{part.name}.xyz.gz"
    if target.with_name(target.name + ".json").exists():
        return None
    sampled = folder / f"{part.name}.sampled.xyz.gz"
    if not sampled.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = sampled.with_name(f".partial-{sampled.name}")
        mtp.data.write(partial, map(_structure, part.sample(size)))
        partial.replace(sampled)
    return label(part.teacher, sampled, target, workers=workers)


def _structure(atoms: Atoms) -> Structure:
    return structure(frame_of(atoms), LabelKeys(), "sampled", 0, Seen())
