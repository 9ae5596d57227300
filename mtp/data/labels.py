"""Which of a frame's values are its labels, and what shape, unit and sign they get."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtp.data.frame import DataError, Frame
from mtp.structure import VOIGT, Structure
from mtp.terms import TERMS

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
    "dipole": (
        "dipole", "Dipole", "dipole_moment", "REF_dipole", "ref_dipole", "dft_dipole", "DFT_dipole",
    ),
    "polarizability": (
        "polarizability", "Polarizability", "REF_polarizability", "ref_polarizability",
        "dft_polarizability", "DFT_polarizability",
    ),
    "atomic_dipole": ("atomic_dipole", "atomic_dipoles"),
    "atomic_polarizability": ("atomic_polarizability", "atomic_polarizabilities"),
}  # fmt: skip
METHOD = ("model_version", "calc_mode")  # how LightPFP's files name the method of the labels
NEVER_AMBIGUOUS = {"free_energy"}  # stands beside "energy" with a meaning of its own
CHARGE = ("charge", "total_charge")
ROUNDING = 1e-4  # of its largest number: a tensor is symmetric up to this
SYMMETRIC = 0.05  # of its largest number: beyond this it is no symmetric tensor at all


@dataclass(frozen=True)
class LabelKeys:
    """Names of the labels in a file; None: the usual names.

    A stress key whose name contains "virial" is a virial in eV: stress = -virial / V.
    terms: the labels to read.  selected: atomic numbers of the atoms that atomic labels are about,
    () for all; a file may then have rows for these atoms only.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    config_type: str = "config_type"
    weight: str | None = None
    dipole: str | None = None
    polarizability: str | None = None
    atomic_dipole: str | None = None
    atomic_polarizability: str | None = None
    terms: tuple[str, ...] = tuple(TERMS)
    selected: tuple[int, ...] = ()

    @property
    def asked(self) -> dict[str, str]:
        """The keys a user gave for what is read, by the option's name."""
        given = {f"{name}_key": getattr(self, name) for name in (*self.terms, "weight")}
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
    weight = frame.info.get(keys.weight, 1.0) if keys.weight else 1.0
    return Structure(
        numbers=np.ascontiguousarray(frame.numbers, dtype=np.int64),
        positions=np.ascontiguousarray(frame.positions, dtype=float),
        cell=np.ascontiguousarray(frame.cell, dtype=float),
        pbc=np.array(frame.pbc, dtype=bool),
        weight=_weight(weight, keys.weight, where),
        config_type=str(frame.info.get(keys.config_type, "")),
        source=source,
        index=index,
        **{term: _read(term, frame, keys, where, source, seen) for term in keys.terms},
    )


def _read(
    term: str, frame: Frame, keys: LabelKeys, where: str, source: str, seen: Seen
) -> float | np.ndarray | None:
    """The label of a term in the shape and unit of mtp/terms.py, None where it is absent."""
    per_atom = TERMS[term].rows == "atom"
    values = frame.info | frame.arrays if per_atom else frame.info
    found = _label(term, values, getattr(keys, term), seen, source)
    if found is None:
        return None
    if term == "energy":
        return float(_numbers(*found, (1,), where)[0])
    if term == "stress":
        return _stress(*found, frame, where, source, seen)
    if term == "dipole":
        _remark_charge(frame, source, seen)
        return _numbers(*found, (3,), where)
    if term == "polarizability":
        return _symmetric(found[0], _numbers(*found, (9, 6), where)[None], where, source, seen)[0]
    selected = keys.selected if term != "forces" else ()
    widths = (9, 6) if TERMS[term].components == 6 else (3,)
    rows = _rows(*found, widths, frame.numbers, selected, where)
    return rows if widths == (3,) else _symmetric(found[0], rows, where, source, seen)


def voigt(tensor: np.ndarray) -> np.ndarray:
    """(…, 6) xx yy zz yz xz xy of (…, 3, 3) tensors, made symmetric."""
    return np.stack([0.5 * (tensor[..., a, b] + tensor[..., b, a]) for a, b in VOIGT], axis=-1)


def tensor(components: np.ndarray) -> np.ndarray:
    """(…, 3, 3) symmetric tensors of (…, 6) xx yy zz yz xz xy."""
    full = np.empty((*np.shape(components)[:-1], 3, 3))
    for k, (a, b) in enumerate(VOIGT):
        full[..., a, b] = full[..., b, a] = components[..., k]
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


def _array(name: str, value: Any, where: str) -> np.ndarray:
    try:
        return floats(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {name!r} must be numbers, got {value!r:.60}") from None


def _numbers(name: str, value: Any, sizes: tuple[int, ...], where: str) -> np.ndarray:
    """The value as a flat float array that has one of the sizes."""
    array = np.ravel(_array(name, value, where))
    if array.size not in sizes:
        allowed = " or ".join(map(str, sizes))
        raise DataError(f"{where}: {name!r} must have {allowed} numbers, got {array.size}")
    return array


def _rows(
    name: str,
    value: Any,
    widths: tuple[int, ...],
    numbers: np.ndarray,
    selected: tuple[int, ...],
    where: str,
) -> np.ndarray:
    """(atoms, width) numbers, 0 for atoms that are not selected."""
    array = _array(name, value, where)
    chosen = np.isin(numbers, selected) if selected else np.ones(len(numbers), dtype=bool)
    if array.ndim > 1:  # 9·n numbers could be 6·m without this
        widths = tuple(w for w in widths if w == array[0].size) or widths
    for width in widths:
        full = np.zeros((len(numbers), width))
        if array.size == full.size:
            full[chosen] = array.reshape(full.shape)[chosen]
            return full
        if array.size == chosen.sum() * width:
            full[chosen] = array.reshape(-1, width)
            return full
    counts = dict.fromkeys((len(numbers), int(chosen.sum())))
    allowed = " or ".join(str(count * width) for width in widths for count in counts)
    hint = "" if len(counts) > 1 else "; rows for some elements only need sel_type"
    raise DataError(
        f"{where}: {name!r} must have {allowed} numbers, got {array.size}"
        + ("" if name == "forces" else hint)
    )


def _symmetric(name: str, values: np.ndarray, where: str, source: str, seen: Seen) -> np.ndarray:
    """(rows, 6) Voigt components of (rows, 9 or 6) tensors; DataError where not symmetric."""
    if values.shape[1] == 6:
        return values
    full = values.reshape(-1, 3, 3)
    skew = np.abs(full - full.swapaxes(1, 2)).max(initial=0.0)
    largest = np.abs(full).max(initial=0.0)
    if skew > SYMMETRIC * largest:
        raise DataError(
            f"{where}: {name!r} must be symmetric 3x3 tensors (or 6 numbers xx yy zz yz xz xy); "
            f"components that should be equal differ by {skew:.3g}, the largest is {largest:.3g}"
        )
    if skew > ROUNDING * largest:
        seen.remarks[f"{source}: {name} is not quite symmetric: made symmetric"] += 1
    return voigt(full)


def _remark_charge(frame: Frame, source: str, seen: Seen) -> None:
    """The dipole of an ion depends on the origin, which no potential knows of."""
    for name in CHARGE:
        try:
            charge = float(frame.info.get(name, 0.0))
        except (TypeError, ValueError):
            continue
        if charge:
            seen.remarks[
                f"{source}: structures with a charge have a dipole; it must not depend on where "
                "the origin is, e.g. be that about the centre of the atoms"
            ] += 1
            return


def _stress(
    name: str, value: Any, frame: Frame, where: str, source: str, seen: Seen
) -> np.ndarray | None:
    """(6,) in eV/Å³ with ASE's sign; None where the structure is not periodic three times."""
    if not np.all(frame.pbc):
        seen.remarks[f"{source}: stress left out where fewer than three directions repeat"] += 1
        return None
    array = _numbers(name, value, (6, 9), where)
    stress = voigt(array.reshape(3, 3)) if array.size == 9 else array
    if "virial" in name.lower():
        stress = -stress / abs(np.linalg.det(np.asarray(frame.cell, dtype=float)))
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
