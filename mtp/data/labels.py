"""Which of a frame's values are its labels, and what shape, unit and sign they get."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtp.data.frame import DataError, Frame
from mtp.structure import VOIGT, Structure

# Names looked for when no key is given, the first one present wins.
USUAL = {
    "energy": (
        "energy", "Energy", "total_energy", "potential_energy", "REF_energy", "ref_energy",
        "dft_energy", "DFT_energy", "free_energy",
    ),
    "forces": (
        "forces", "force", "Forces", "REF_forces", "ref_forces", "dft_forces", "DFT_forces",
        "dft_force", "DFT_force",
    ),
    "stress": (
        "stress", "REF_stress", "ref_stress", "dft_stress", "DFT_stress",
        "virial", "virials", "REF_virial", "REF_virials", "ref_virial", "dft_virial", "DFT_virial",
    ),
}  # fmt: skip
METHOD = ("model_version", "calc_mode")  # how LightPFP's files name the method of the labels
NEVER_AMBIGUOUS = {"free_energy"}  # stands beside "energy" with a meaning of its own


@dataclass(frozen=True)
class LabelKeys:
    """Names of the labels in a file; None: the usual names.

    A stress key whose name contains "virial" is a virial in eV: stress = -virial / V.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    config_type: str = "config_type"
    weight: str | None = None

    @property
    def asked(self) -> dict[str, str]:
        """The keys a user gave, by the option's name."""
        given = {"energy_key": self.energy, "forces_key": self.forces,
                 "stress_key": self.stress, "weight_key": self.weight}  # fmt: skip
        return {option: key for option, key in given.items() if key is not None}


@dataclass
class Seen:
    """What the reader met: all names, remarks with the number of frames, and methods."""

    names: set[str] = field(default_factory=set)
    remarks: Counter[str] = field(default_factory=Counter)
    methods: set[str] = field(default_factory=set)

    def warnings(self) -> list[str]:
        """One line per remark."""
        lines = [f"{remark} ({count} frames)" for remark, count in self.remarks.items()]
        if len(self.methods) > 1:
            lines.append(f"labels come from several methods: {', '.join(sorted(self.methods))}")
        return lines

    def check(self, keys: LabelKeys, where: str) -> None:
        """DataError when a key the user gave is in no frame."""
        for option, key in keys.asked.items():
            if self.names and key not in self.names:
                raise DataError(
                    f"{where}: {option} {key!r} is in no frame; names there: "
                    f"{', '.join(sorted(self.names))}"
                )


def structure(frame: Frame, keys: LabelKeys, source: str, index: int, seen: Seen) -> Structure:
    """The frame with its labels. DataError for labels of the wrong shape and for useless cells."""
    where = f"{source}#{index}"
    seen.names |= frame.keys
    method = [str(frame.info[name]) for name in METHOD if name in frame.info]
    seen.methods |= {" ".join(method)} if method else set()
    _check_geometry(frame, where)
    energy = _label("energy", frame.info, keys.energy, seen, source)
    forces = _label("forces", frame.arrays, keys.forces, seen, source)
    stress = _label("stress", frame.info, keys.stress, seen, source)
    weight = frame.info.get(keys.weight, 1.0) if keys.weight else 1.0
    cell = np.ascontiguousarray(frame.cell, dtype=float)
    return Structure(
        numbers=np.ascontiguousarray(frame.numbers, dtype=np.int64),
        positions=np.ascontiguousarray(frame.positions, dtype=float),
        cell=cell,
        pbc=np.array(frame.pbc, dtype=bool),
        energy=None if energy is None else float(_numbers(*energy, (1,), where)[0]),
        forces=None if forces is None else _numbers(*forces, (3 * len(frame.numbers),), where)
        .reshape(-1, 3),
        stress=None if stress is None else _stress(*stress, frame, cell, where, source, seen),
        weight=_weight(weight, keys.weight, where),
        config_type=str(frame.info.get(keys.config_type, "")),
        source=source,
        index=index,
    )  # fmt: skip


def voigt(tensor: np.ndarray) -> np.ndarray:
    """(6,) xx yy zz yz xz xy of a (3, 3) tensor, made symmetric."""
    return np.array([0.5 * (tensor[a, b] + tensor[b, a]) for a, b in VOIGT])


def tensor(stress: np.ndarray) -> np.ndarray:
    """(3, 3) symmetric tensor of (6,) xx yy zz yz xz xy."""
    full = np.empty((3, 3))
    for value, (a, b) in zip(stress, VOIGT, strict=True):
        full[a, b] = full[b, a] = value
    return full


def _label(
    kind: str, values: dict[str, Any], key: str | None, seen: Seen, source: str
) -> tuple[str, Any] | None:
    """(name, value) of a label or None; the given key or else the first usual name."""
    if key is not None:
        return (key, values[key]) if values.get(key) is not None else None
    found = [name for name in USUAL[kind] if values.get(name) is not None]
    if not found:
        return None
    rivals = [name for name in found[1:] if name not in NEVER_AMBIGUOUS]
    if any(not _same(found[0], values[found[0]], name, values[name]) for name in rivals):
        seen.remarks[
            f"{source}: {kind} stands under {found}; took {found[0]!r} (set {kind}_key to choose)"
        ] += 1
    return found[0], values[found[0]]


def _same(name: str, a: Any, other: str, b: Any) -> bool:
    """Whether two values say the same; a stress and a virial are not compared."""
    if ("virial" in name.lower()) != ("virial" in other.lower()):
        return True
    try:
        return np.array_equal(np.ravel(floats(a)), np.ravel(floats(b)))
    except ValueError:
        return False


def floats(value: Any) -> np.ndarray:
    """Numbers of a value that may still be text such as ``"1 2 3"`` or ``[[1, 2], [3, 4]]``."""
    if isinstance(value, str):
        value = value.removeprefix("_JSON").translate(str.maketrans("[]{},", "     ")).split()
    return np.asarray(value, dtype=float)


def _numbers(name: str, value: Any, sizes: tuple[int, ...], where: str) -> np.ndarray:
    """The value as a flat float array that has one of the sizes."""
    try:
        array = np.ravel(floats(value))
    except (TypeError, ValueError):
        raise DataError(f"{where}: {name!r} must be numbers, got {value!r:.60}") from None
    if array.size not in sizes:
        allowed = " or ".join(map(str, sizes))
        raise DataError(f"{where}: {name!r} must have {allowed} numbers, got {array.size}")
    return array


def _stress(
    name: str, value: Any, frame: Frame, cell: np.ndarray, where: str, source: str, seen: Seen
) -> np.ndarray | None:
    """(6,) in eV/Å³ with ASE's sign; None where the structure is not periodic three times."""
    if not np.all(frame.pbc):
        seen.remarks[f"{source}: stress left out where fewer than three directions repeat"] += 1
        return None
    array = _numbers(name, value, (6, 9), where)
    stress = voigt(array.reshape(3, 3)) if array.size == 9 else array
    if "virial" in name.lower():
        stress = -stress / abs(np.linalg.det(cell))
    return stress


def _weight(value: Any, key: str | None, where: str) -> float:
    weight = float(_numbers(str(key), value, (1,), where)[0])
    if not (np.isfinite(weight) and weight >= 0):
        raise DataError(f"{where}: {key!r} must be a finite weight >= 0, got {weight}")
    return weight


def _check_geometry(frame: Frame, where: str) -> None:
    if len(frame.numbers) == 0:
        raise DataError(f"{where}: the frame has no atoms")
    if np.min(frame.numbers) < 1:
        raise DataError(f"{where}: atoms without an element (atomic number 0)")
    if np.shape(frame.positions) != (len(frame.numbers), 3):
        raise DataError(
            f"{where}: positions must be ({len(frame.numbers)}, 3), got {np.shape(frame.positions)}"
        )
    vectors = np.asarray(frame.cell, dtype=float)[np.asarray(frame.pbc, dtype=bool)]
    if not len(vectors) or not np.all(np.isfinite(vectors)):
        return  # numbers that are not finite are counted and dropped by the filters
    lengths = np.linalg.norm(vectors, axis=1)
    if lengths.min() == 0 or np.linalg.svd(vectors / lengths[:, None])[1].min() < 1e-6:
        raise DataError(
            f"{where}: lattice vectors of the periodic directions are zero or not independent; "
            'give the cell, or pbc="F F F" for a molecule'
        )
