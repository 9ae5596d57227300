"""DeePMD npy folders: type.raw, type_map.raw, set.*/{box,coord,energy,force,virial,…}.npy.

Dipoles and polarizabilities stand in dipole.npy, polarizability.npy (9 components), and those of
the atoms in atomic_dipole.npy, atomic_polarizability.npy, whose rows may be of some types only.
"""

from __future__ import annotations

from collections import defaultdict
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
        info |= {} if energy is None else {"energy": energy[i, 0]}
        info |= {} if virial is None else {"virial": virial[i]}
        yield Frame(
            numbers=numbers_of_types(kinds, type_map, str(folder), HOW),
            positions=coord[i].reshape(-1, 3),
            cell=box[i].reshape(3, 3) if periodic else np.zeros((3, 3)),
            pbc=np.full(3, periodic),
            info=info | {name: values[i] for name, values in of_frame.items()},
            arrays=({} if force is None else {"forces": force[i].reshape(-1, 3)})
            | {name: values[i] for name, values in of_atoms.items()},
        )


def _load(file: Path, width: int, frames: int | None = None) -> np.ndarray | None:
    """(frames, width) in float64, or None where the file is absent."""
    if not file.exists():
        return None
    array = np.load(file).astype(float)
    rows = array.shape[0] if array.ndim else 1
    if array.size != rows * width or frames not in (None, rows):
        expected = f"({'frames' if frames is None else frames}, {width})"
        raise DataError(f"{file}: expected shape {expected}, got {array.shape}")
    return array.reshape(rows, width)


def _load_atomic(file: Path, width: int, frames: int) -> np.ndarray | None:
    """(frames, rows, width) in float64, or None where the file is absent."""
    if not file.exists():
        return None
    array = np.load(file).astype(float)
    if array.shape[:1] != (frames,) or array.size % (frames * width):
        raise DataError(
            f"{file}: expected shape ({frames}, {width} numbers per atom), got {array.shape}"
        )
    return array.reshape(frames, -1, width)


def write(path: Path, structures: Iterable[Structure]) -> None:
    """One system per list of elements, periodicity and set of labels.

    A single system is written into ``path`` itself, several into ``path/0000``, ``path/0001``, …
    """
    if path.is_dir() and any(path.iterdir()):
        raise DataError(f"{path} is not empty; old labels would mix with new ones, name another")
    systems: dict[tuple, list[Structure]] = defaultdict(list)
    species = set()
    for item in structures:
        if item.pbc.any() and not item.pbc.all():
            raise DataError(
                f"{item.where}: DeePMD data are periodic in three directions or none, "
                f"got pbc {item.pbc.tolist()}"
            )
        labels = tuple(getattr(item, term) is None for term in TERMS)
        systems[item.numbers.tobytes(), bool(item.pbc.all()), labels].append(item)
        species |= {int(number) for number in item.numbers}
    for i, items in enumerate(systems.values()):
        folder = path if len(systems) == 1 else path / f"{i:04d}"
        _write_system(folder, items, sorted(species))


def _write_system(folder: Path, items: list[Structure], species: list[int]) -> None:
    first, target = items[0], folder / "set.000"
    target.mkdir(parents=True, exist_ok=True)
    types = [species.index(int(number)) for number in first.numbers]
    (folder / "type.raw").write_text("\n".join(map(str, types)) + "\n", encoding="utf-8")
    (folder / "type_map.raw").write_text("\n".join(symbols(species)) + "\n", encoding="utf-8")
    np.save(target / "coord.npy", [item.positions.ravel() for item in items])
    if first.pbc.all():
        np.save(target / "box.npy", [item.cell.ravel() for item in items])
    else:
        (folder / "nopbc").touch()
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
