"""Whatever ASE reads: databases, trajectories, OUTCAR, vasprun.xml and many more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import ase.io
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from mtp.data.frame import DataError, Frame
from mtp.structure import Structure
from mtp.terms import TERMS

RESULTS = ("energy", "forces", "stress", "dipole")
"""Labels that ASE knows as results of a calculation; others stand in the atoms' info."""


def read(
    path: Path, type_map: Sequence[str] | None = None, form: str | None = None
) -> Iterator[Frame]:
    """Frames of a file that ``ase.io`` knows; DataError with ASE's own words otherwise."""
    return _frames(path, ase.io.iread(str(path), ":", format=form))


def read_database(path: Path, type_map: Sequence[str] | None = None) -> Iterator[Frame]:
    """Frames of an ASE database with the rows' key-value pairs and data among their names."""
    rows = connect(str(path)).select()
    return _frames(path, (row.toatoms(add_additional_information=True) for row in rows))


def _frames(path: Path, images: Iterator[Atoms]) -> Iterator[Frame]:
    while True:
        try:
            atoms = next(images)
        except StopIteration:
            return
        except Exception as error:  # ASE's readers raise anything at all
            words = str(error) or type(error).__name__
            raise DataError(f"{path}: ASE cannot read it: {words}") from error
        yield frame_of(atoms)


def frame_of(atoms: Atoms) -> Frame:
    """A Frame with the calculator's results before the atoms' own info and arrays."""
    results = dict(atoms.calc.results) if isinstance(atoms.calc, SinglePointCalculator) else {}
    arrays = {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")}
    info = {k: v for k, v in atoms.info.items() if k not in ("key_value_pairs", "data")}
    # a database row keeps its own names one level down
    info |= atoms.info.get("data", {}) | atoms.info.get("key_value_pairs", {})
    if "forces" in results:
        arrays["forces"] = results.pop("forces")
    return Frame(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        info=info | results,
        arrays=arrays,
    )


def atoms_of(item: Structure) -> Atoms:
    """ASE atoms with the labels as results of a SinglePointCalculator."""
    atoms = Atoms(item.numbers, item.positions, cell=item.cell, pbc=item.pbc)
    labels = {term: getattr(item, term) for term in TERMS if getattr(item, term) is not None}
    results = {term: labels.pop(term) for term in RESULTS if term in labels}
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info |= labels
    if item.config_type:
        atoms.info["config_type"] = item.config_type
    if item.weight != 1.0:
        atoms.info["weight"] = item.weight
    return atoms


def write_database(path: Path, structures: Iterable[Structure]) -> None:
    """A new ASE database; what ASE does not know stands in the data of the row."""
    path.unlink(missing_ok=True)
    with connect(str(path)) as database:
        for item in structures:
            atoms = atoms_of(item)
            database.write(atoms, data=atoms.info)
