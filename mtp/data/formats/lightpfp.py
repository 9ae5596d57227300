"""LightPFP HDF5: one group per structure, keys 000000, 000001, …"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from mtp.data.frame import DataError, Frame
from mtp.structure import Structure
from mtp.terms import TERMS

GEOMETRY = ("numbers", "positions", "cell", "pbc")
NAMES = {"energy": "potential_energy"}


def read(path: Path, type_map: Sequence[str] | None = None) -> Iterator[Frame]:
    """Frames in the order of their keys; datasets besides the geometry become labels by name."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: not an HDF5 file: {error}") from None
    with file:
        for key in sorted(file, key=lambda name: (len(name), name)):
            group = file[key]
            if isinstance(group, h5py.Group):
                yield _frame(group, f"{path}:/{key}")


def _frame(group: h5py.Group, where: str) -> Frame:
    missing = [name for name in ("numbers", "positions") if name not in group]
    if missing:
        raise DataError(f"{where}: {missing} missing; LightPFP HDF5 needs {', '.join(GEOMETRY)}")
    values = {k: _value(v) for k, v in group.items() if isinstance(v, h5py.Dataset)}
    values |= {k: _value(v) for k, v in group.attrs.items()}
    numbers = values.pop("numbers").astype(int)
    positions = values.pop("positions")
    cell = np.asarray(values.pop("cell", np.zeros((3, 3))), dtype=float).reshape(3, 3)
    pbc = values.pop("pbc", np.full(3, bool(cell.any())))
    arrays = {"forces": values.pop("forces")} if "forces" in values else {}
    return Frame(numbers, positions, cell, np.asarray(pbc, dtype=bool), values, arrays)


def _value(item: object) -> object:
    value = item[()] if isinstance(item, h5py.Dataset) else item
    return value.decode() if isinstance(value, bytes) else value


def write(path: Path, structures: Iterable[Structure]) -> None:
    """The schema's datasets in float64; config_type and weight as attributes of the group."""
    with h5py.File(path, "w") as file:
        for i, item in enumerate(structures):
            group = file.create_group(f"{i:06d}")
            labels = {NAMES.get(term, term): getattr(item, term) for term in TERMS}
            geometry = {name: getattr(item, name) for name in GEOMETRY}
            for name, value in (geometry | labels).items():
                if value is not None:
                    group[name] = value
            if item.config_type:
                group.attrs["config_type"] = item.config_type
            if item.weight != 1.0:
                group.attrs["weight"] = item.weight
