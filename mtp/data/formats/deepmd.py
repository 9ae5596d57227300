"""DeePMD npy folders: type.raw, type_map.raw, set.*/{box,coord,energy,force,virial,…}.npy.

Dipoles and polarizabilities stand in dipole.npy, polarizability.npy (9 components), and those of
the atoms in atomic_dipole.npy, atomic_polarizability.npy, whose rows may be of some types only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mtp.data.frame import DataError, Frame, numbers_of_types, symbols
from mtp.data.labels import tensor
from mtp.structure import Structure
from mtp.terms import TERMS

HOW = "add type_map.raw (one element symbol per line) or give type_map or --type-map"

FRAME = {"dipole": 3, "polarizability": 9}
"""Files with a row per frame besides energy, force and virial → numbers in it."""
ATOMIC = {"atomic_dipole": 3, "atomic_polarizability": 9}
"""Files with a row per frame → numbers per atom."""


def read(path: Path, type_map: Sequence[str] | None = None) -> Iterator[Frame]:
    """Frames of one system folder, or of every system below a folder, in the order of names.

    ``type_map.raw`` of a system wins over ``type_map``. Virials are -V * stress in eV.
    """
    systems = sorted(file.parent for file in path.rglob("type.raw"))
    if not systems:
        raise DataError(f"{path}: a folder must be DeePMD npy data, but has no type.raw in it")
    for system in systems:
        yield from _system(system, type_map)


def _system(system: Path, type_map: Sequence[str] | None) -> Iterator[Frame]:
    types = np.loadtxt(system / "type.raw", dtype=int, ndmin=1)
    names = system / "type_map.raw"
    if names.exists():
        type_map = names.read_text(encoding="utf-8").split()
    sets = sorted(folder for folder in system.glob("set.*") if folder.is_dir())
    if not sets:
        raise DataError(f"{system}: no set.* folder")
    periodic = not (system / "nopbc").exists()
    for folder in sets:
        yield from _set(folder, types, type_map, periodic)


def _set(
    folder: Path, types: np.ndarray, type_map: Sequence[str] | None, periodic: bool
) -> Iterator[Frame]:
    atoms = len(types)
    coord = _load(folder / "coord.npy", 3 * atoms)
    if coord is None:
        raise DataError(f"{folder}: coord.npy is missing")
    frames = len(coord)
    box = _load(folder / "box.npy", 9, frames)
    if periodic and box is None:
        raise DataError(f"{folder}: box.npy is missing; add a file nopbc for molecules")
    energy = _load(folder / "energy.npy", 1, frames)
    force = _load(folder / "force.npy", 3 * atoms, frames)
    virial = _load(folder / "virial.npy", 9, frames) if periodic else None
    of_frame = {
        name: values
        for name, width in FRAME.items()
        if (values := _load(folder / f"{name}.npy", width, frames)) is not None
    }
    of_atoms = {
        name: values
        for name, width in ATOMIC.items()
        if (values := _load_atomic(folder / f"{name}.npy", width, frames)) is not None
    }
    mixed = _load(folder / "real_atom_types.npy", atoms, frames)  # one row of types per frame
    for i in range(frames):
        kinds = types if mixed is None else mixed[i]
        info = {"config_type": folder.parent.name}
        info |= {} if energy is None else {"energy": float(energy[i, 0])}
        info |= {} if virial is None else {"virial": _floats(virial[i])}
        yield Frame(
            numbers=numbers_of_types(kinds, type_map, str(folder), HOW),
            positions=_floats(coord[i]).reshape(-1, 3),
            cell=_floats(box[i]).reshape(3, 3) if periodic else np.zeros((3, 3)),
            pbc=np.full(3, periodic),
            info=info | {name: _floats(values[i]) for name, values in of_frame.items()},
            arrays=({} if force is None else {"forces": _floats(force[i]).reshape(-1, 3)})
            | {name: _floats(values[i]) for name, values in of_atoms.items()},
        )


def _load(file: Path, width: int, frames: int | None = None) -> np.ndarray | None:
    """(frames, width), left in the file until a row is used, or None where it is absent."""
    if not file.exists():
        return None
    array = np.load(file, mmap_mode="r")
    rows = array.shape[0] if array.ndim else 1
    if array.size != rows * width or frames not in (None, rows):
        expected = f"({'frames' if frames is None else frames}, {width})"
        raise DataError(f"{file}: expected shape {expected}, got {array.shape}")
    return array.reshape(rows, width)


def _load_atomic(file: Path, width: int, frames: int) -> np.ndarray | None:
    """(frames, rows, width), left in the file until used, or None where it is absent."""
    if not file.exists():
        return None
    array = np.load(file, mmap_mode="r")
    if array.shape[:1] != (frames,) or array.size % (frames * width):
        raise DataError(
            f"{file}: expected shape ({frames}, {width} numbers per atom), got {array.shape}"
        )
    return array.reshape(frames, -1, width)


def _floats(row: np.ndarray) -> np.ndarray:
    return np.array(row, dtype=float)


HELD = 4_000_000  # numbers kept in memory before some are written as a set


def write(path: Path, structures: Iterable[Structure]) -> None:
    """One system per list of elements, periodicity and set of labels, in sets of some frames.

    A single system is written into ``path`` itself, several into ``path/0000``, ``path/0001``, …
    """
    systems: dict[tuple, _System] = {}
    path.mkdir(exist_ok=True)
    for item in structures:
        if item.pbc.any() and not item.pbc.all():
            raise DataError(
                f"{item.where}: DeePMD data are periodic in three directions or none, "
                f"got pbc {item.pbc.tolist()}"
            )
        labels = tuple(getattr(item, term) is None for term in TERMS)
        key = item.numbers.tobytes(), bool(item.pbc.all()), labels
        if key not in systems:
            systems[key] = _System(path / f"{len(systems):04d}", item.numbers)
        systems[key].add(item)
        while sum(system.held for system in systems.values()) > HELD:
            max(systems.values(), key=lambda system: system.held).flush()
    species = sorted({int(number) for one in systems.values() for number in one.numbers})
    for system in systems.values():
        system.close(species)
    if len(systems) == 1:
        for file in system.folder.iterdir():
            file.rename(path / file.name)
        system.folder.rmdir()


class _System:
    """Frames of one system on their way into a folder."""

    def __init__(self, folder: Path, numbers: np.ndarray) -> None:
        self.folder, self.numbers = folder, numbers
        self.items: list[Structure] = []
        self.held = self.sets = 0

    def add(self, item: Structure) -> None:
        self.items.append(item)
        self.held += sum(np.size(getattr(item, term)) for term in ("positions", *TERMS))

    def flush(self) -> None:
        """Write the frames at hand as a set."""
        _write_set(self.folder / f"set.{self.sets:03d}", self.items)
        self.items, self.held, self.sets = [], 0, self.sets + 1

    def close(self, species: list[int]) -> None:
        """Write the rest, and what is the same for all frames."""
        if self.items:
            self.flush()
        types = [species.index(int(number)) for number in self.numbers]
        text = {"type.raw": map(str, types), "type_map.raw": symbols(species)}
        for name, lines in text.items():
            (self.folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_set(target: Path, items: list[Structure]) -> None:
    first = items[0]
    target.mkdir(parents=True, exist_ok=True)
    np.save(target / "coord.npy", [item.positions.ravel() for item in items])
    if first.pbc.all():
        np.save(target / "box.npy", [item.cell.ravel() for item in items])
    else:
        (target.parent / "nopbc").touch()
    if first.energy is not None:
        np.save(target / "energy.npy", [item.energy for item in items])
    if first.forces is not None:
        np.save(target / "force.npy", [item.forces.ravel() for item in items])
    if first.stress is not None:
        virials = [-item.volume * tensor(item.stress).ravel() for item in items]
        np.save(target / "virial.npy", virials)
    for name in (*FRAME, *ATOMIC):
        if getattr(first, name) is not None:
            labels = np.array([getattr(item, name) for item in items])
            full = tensor(labels) if TERMS[name].components == 6 else labels
            np.save(target / f"{name}.npy", full.reshape(len(items), -1))
