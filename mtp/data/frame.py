"""A frame as a file holds it, before its labels have a meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from mtp.errors import DataError


@dataclass(frozen=True, eq=False)
class Frame:
    """Geometry plus whatever else stands in the file, under the file's own names.

    numbers: (atoms,).  positions: (atoms, 3) in Å.  cell: (3, 3) in Å, rows are lattice vectors.
    info: one value per frame.  arrays: one row per atom.  Values may still be text.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> set[str]:
        """Every name that could be asked for as a label."""
        return self.info.keys() | self.arrays.keys()


def atomic_number(symbol: str, where: str) -> int:
    """Atomic number of an element symbol (any case); DataError at ``where`` otherwise."""
    number = atomic_numbers.get(symbol.strip().capitalize(), 0)
    if number < 1:
        raise DataError(f"{where}: {symbol!r} is not an element symbol")
    return number


def numbers_of_types(
    types: Sequence[int] | np.ndarray, type_map: Sequence[str] | None, where: str, how: str
) -> np.ndarray:
    """Atomic numbers (atoms,) of type ids by the list of element symbols ``type_map``."""
    types = np.asarray(types, dtype=int)
    if type_map is None:
        raise DataError(
            f"{where}: atoms have type ids {sorted({int(t) for t in types})} and no elements; {how}"
        )
    table = np.array([atomic_number(symbol, f"{where}: type_map") for symbol in type_map])
    if len(types) and not 0 <= types.min() <= types.max() < len(table):
        raise DataError(
            f"{where}: type ids must be in 0…{len(table) - 1} (type_map {list(type_map)}), "
            f"got {sorted({int(t) for t in types})}"
        )
    return table[types]


def symbols(numbers: Sequence[int] | np.ndarray) -> list[str]:
    """Element symbols of atomic numbers."""
    return [chemical_symbols[int(number)] for number in numbers]
