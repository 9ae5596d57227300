"""MLIP ``.cfg``: text blocks BEGIN_CFG … END_CFG with atom types instead of elements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mtp.data.formats.text import open_text
from mtp.data.frame import DataError, Frame, numbers_of_types, symbols
from mtp.structure import Structure

# PlusStress = -V * stress in eV, in the order of its header; ours is xx yy zz yz xz xy too.
STRESS_HEADER = ("xx", "yy", "zz", "yz", "xz", "xy")
ELEMENTS = "elements"
"""Feature that names the elements of types 0, 1, …; written by us, so files describe themselves."""
HOW = (
    "give type_map or --type-map (one element per type), or add "
    f"'Feature {ELEMENTS} Cu,Pd' to each block"
)


def is_mlip(path: Path) -> bool:
    """Whether the file starts like MLIP's format (AtomEye's has the same suffix)."""
    with open_text(path) as file:
        first = next((line.strip() for line in file if line.strip()), "")
    return first == "BEGIN_CFG"


def read(path: Path, type_map: Sequence[str] | None = None) -> Iterator[Frame]:
    """Frames of a file; ``type_map`` lists the element of type 0, 1, … and wins over the file."""
    with open_text(path) as file:
        lines: list[str] | None = None
        start = 0
        for number, line in enumerate(file, 1):
            word = line.strip()
            if word == "BEGIN_CFG":
                lines, start = [], number
            elif word == "END_CFG" and lines is not None:
                where = f"{path}:{start}"
                try:
                    yield _frame(lines, type_map, where)
                except (ValueError, IndexError, StopIteration) as error:
                    raise DataError(f"{where}: broken block BEGIN_CFG … END_CFG: {error}") from None
                lines = None
            elif lines is not None and word:
                lines.append(word)
        if lines is not None:
            raise DataError(f"{path}:{start}: BEGIN_CFG without END_CFG (the file ends early?)")


def _frame(lines: list[str], type_map: Sequence[str] | None, where: str) -> Frame:
    size, vectors, table, columns = 0, [], [], []
    info: dict[str, object] = {}
    queue = iter(lines)
    for line in queue:
        word = line.split()[0]
        name, rest = word.rstrip(":"), line[len(word) :].strip()
        if name == "Size":
            size = int(rest or next(queue))
        elif name.lower() == "supercell":
            vectors, line_after = _vectors(queue)
            if line_after is not None:
                columns, table = line_after.partition(":")[2].split(), _rows(queue, size)
        elif name == "AtomData":
            columns, table = rest.split(), _rows(queue, size)
        elif name == "Energy":
            info["energy"] = float(rest or next(queue))
        elif name == "PlusStress":
            values = dict(zip(rest.split(), map(float, next(queue).split()), strict=True))
            info["virial"] = np.array([values[key] for key in STRESS_HEADER])
        elif name == "Feature":
            key, *value = rest.split(maxsplit=1)
            info[key] = value[0] if value else "T"
        else:
            raise DataError(f"{where}: unknown entry {line!r:.60}")
    elements = info.pop(ELEMENTS, None)
    if type_map is None and elements is not None:
        type_map = str(elements).replace(",", " ").split()
    return _assemble(size, vectors, columns, table, info, type_map, where)


def _rows(queue: Iterator[str], size: int) -> list[list[str]]:
    return [next(queue).split() for _ in range(size)]


def _vectors(queue: Iterator[str]) -> tuple[list[list[float]], str | None]:
    """Lattice vectors (none to three of them) and the line that ended them."""
    vectors: list[list[float]] = []
    for line in queue:
        if line.startswith("AtomData"):
            return vectors, line
        vectors.append([float(word) for word in line.split()])
    return vectors, None


def _assemble(
    size: int,
    vectors: list[list[float]],
    columns: list[str],
    table: list[list[str]],
    info: dict[str, object],
    type_map: Sequence[str] | None,
    where: str,
) -> Frame:
    data = dict(zip(columns, np.array(table).reshape(size, -1).T, strict=True))
    cell = np.zeros((3, 3))
    cell[: len(vectors)] = np.reshape(vectors, (-1, 3))
    if "direct_x" in data:
        positions = _triple(data, "direct_{}") @ cell
    else:
        positions = _triple(data, "cartes_{}")
    arrays = {"forces": _triple(data, "f{}")} if "fx" in data else {}
    return Frame(
        numbers=numbers_of_types(data["type"].astype(int), type_map, where, HOW),
        positions=positions,
        cell=cell,
        pbc=np.arange(3) < len(vectors),
        info=info,
        arrays=arrays,
    )


def _triple(data: dict[str, np.ndarray], name: str) -> np.ndarray:
    return np.stack([data[name.format(axis)].astype(float) for axis in "xyz"], axis=1)


def write(path: Path, structures: Iterable[Structure]) -> None:
    """Types 0…n-1 in ascending atomic number of all structures, named in a Feature."""
    if isinstance(structures, Iterator):  # it can be gone through only once
        structures = list(structures)
    species = sorted({int(number) for item in structures for number in item.numbers})
    with open_text(path, "w") as file:
        for item in structures:
            file.write(_block(item, species))


def _block(item: Structure, species: list[int]) -> str:
    count = int(item.pbc.sum())
    if not item.pbc[:count].all():
        raise DataError(
            f"{item.where}: .cfg holds periodic directions first (T F F, T T F, T T T), "
            f"got pbc {item.pbc.tolist()}; turn the cell"
        )
    atomic = [t for t in ("atomic_dipole", "atomic_polarizability") if getattr(item, t) is not None]
    if atomic:
        raise DataError(f"{item.where}: .cfg has no place for {', '.join(atomic)}; write .xyz")
    header, columns = "id type cartes_x cartes_y cartes_z", [item.positions]
    if item.forces is not None:
        header, columns = header + " fx fy fz", [*columns, item.forces]
    lines = ["BEGIN_CFG", " Size", f" {len(item)}"]
    if count:
        lines += [" Supercell", *(f" {_text(row)}" for row in item.cell[:count])]
    lines.append(f" AtomData: {header}")
    for i, row in enumerate(np.hstack(columns)):
        lines.append(f" {i + 1} {species.index(int(item.numbers[i]))} {_text(row)}")
    if item.energy is not None:
        lines += [" Energy", f" {_text(item.energy)}"]
    if item.stress is not None:
        lines += [
            f" PlusStress: {' '.join(STRESS_HEADER)}",
            f" {_text(-item.volume * item.stress)}",
        ]
    for name in ("dipole", "polarizability"):
        if getattr(item, name) is not None:
            lines.append(f" Feature {name} {_text(getattr(item, name))}")
    lines.append(f" Feature {ELEMENTS} {','.join(symbols(species))}")
    if item.config_type:
        lines.append(f" Feature config_type {item.config_type}")
    if item.weight != 1.0:
        lines.append(f" Feature weight {item.weight!r}")
    return "\n".join([*lines, "END_CFG", "", ""])


def _text(values: np.ndarray) -> str:
    # shortest digits that read back as the same numbers; not every reader knows exponents
    return " ".join(np.format_float_positional(value, trim="0") for value in np.ravel(values))
