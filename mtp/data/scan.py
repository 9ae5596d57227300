"""The scan of the data: which frames are kept, why others are not, what the kept ones hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtp.baseline import Shifts
from mtp.data.duplicates import Duplicates, same_labels
from mtp.data.frame import DataError, symbols
from mtp.data.reading import is_finite
from mtp.geometry import pairs_within
from mtp.structure import Structure
from mtp.terms import PREDICTED

FILTERS = ("unlabelled", "nonfinite", "duplicate", "energy", "forces")
MANY = 0.05  # warn when more than this part of the frames is dropped
FAR = 50.0  # eV/atom: raw energies beyond this are not measured from free atoms
WORST = 10
TOUCHING = 0.3  # Å: no two nuclei are this near in a meaningful structure


@dataclass(frozen=True)
class Selection:
    """Kept structures in their order, and counts of the dropped ones by file and filter."""

    structures: list[Structure]
    dropped: dict[str, Counter[str]]
    warnings: list[str] = field(default_factory=list)


def select(
    structures: Iterable[Structure],
    *,
    max_energy: float = 1e38,
    max_forces: float = 1e38,
    shifts: Shifts | None = None,
    drop_duplicates: bool = True,
    terms: Sequence[str] = (),
) -> Selection:
    """Structures that pass the filters; each dropped one is counted under the first it fails.

    terms: a frame needs a label of at least one of them, unless () is given.
    max_energy: eV per atom, of the energy less ``shifts`` when given; only higher energies fail.
    max_forces: eV/Å, norm of the force on any atom; strictly larger fails.
    DataError when nothing is left.
    """
    structures = list(structures)
    dropped: dict[str, Counter[str]] = defaultdict(Counter)
    kept, clashes, known = [], [], Duplicates()
    for item in structures:
        reason = _reason(item, max_energy, max_forces, shifts, terms)
        if reason is None:
            twin = known.find(item)
            if twin is not None and drop_duplicates and same_labels(item, twin):
                reason = "duplicate"
            elif twin is not None and _disagree(item, twin):
                clashes.append((twin, item))
        if reason is None:
            kept.append(item)
            if twin is None:
                known.add(item)
        else:
            dropped[item.source][reason] += 1
    warnings = _filter_warnings(structures, kept, dropped, max_energy, shifts, clashes)
    unlabelled = sum(counts["unlabelled"] for counts in dropped.values())
    if unlabelled:
        warnings.insert(
            0,
            f"{unlabelled} of {len(structures)} frames have no label of {' or '.join(terms)}: "
            "left out",
        )
    return Selection(kept, dict(dropped), warnings)


def _reason(
    item: Structure,
    max_energy: float,
    max_forces: float,
    shifts: Shifts | None,
    terms: Sequence[str],
) -> str | None:
    """Name of the filter that the frame fails."""
    if terms and all(item.label(term) is None for term in terms):
        return "unlabelled"
    if not is_finite(item):
        return "nonfinite"
    if item.energy is not None and energy_per_atom(item, shifts) > max_energy:
        return "energy"
    if item.forces is not None and largest_force(item) > max_forces:
        return "forces"
    return None


def energy_per_atom(item: Structure, shifts: Shifts | None = None) -> float:
    """(E - Σ e0) / N in eV/atom."""
    return (item.energy - (shifts.energy(item) if shifts else 0.0)) / len(item)


def largest_force(item: Structure) -> float:
    """Largest norm of a force on an atom in eV/Å."""
    return float(np.linalg.norm(item.forces, axis=1).max())


def _disagree(a: Structure, b: Structure) -> bool:
    return a.energy is not None and b.energy is not None and abs(a.energy - b.energy) > 1e-6


def _filter_warnings(
    structures: Sequence[Structure],
    kept: Sequence[Structure],
    dropped: dict[str, Counter[str]],
    max_energy: float,
    shifts: Shifts | None,
    clashes: list[tuple[Structure, Structure]],
) -> list[str]:
    total = sum(dropped.values(), Counter())
    words = ", ".join(f"{total[name]} by {name}" for name in FILTERS if total[name])
    energies = [energy_per_atom(s) for s in structures if s.energy is not None]
    middle = float(np.nanmedian(energies)) if np.any(np.isfinite(energies or [np.nan])) else 0.0
    raw = max_energy < 1e30 and shifts is None and abs(middle) > FAR
    hint = (
        f"max_energy {max_energy:g} eV/atom is compared with raw energies whose median is "
        f'{middle:.1f} eV/atom; set max_energy_reference to "e0"'
    )
    if not kept:
        raise DataError(
            f"no frame is left of {len(structures)}: dropped {words or 'none'}"
            + (f"; {hint}" if raw else "")
        )
    warnings = [hint] if raw else []
    bad = [item.where for item in structures if not is_finite(item)]
    if bad:
        where = ", ".join(bad[:5]) + (", …" if len(bad) > 5 else "")
        warnings.append(f"left out {len(bad)} frames with NaN or infinity: {where}")
    lost = sum(total.values()) - total["duplicate"] - total["unlabelled"]
    if lost > MANY * len(structures):
        warnings.append(
            f"the filters dropped {lost} of {len(structures)} frames "
            f"({100 * lost / len(structures):.0f} %): {words}"
        )
    if clashes:
        first = ", ".join(
            f"{a.where} and {b.where} ({b.energy - a.energy:+.3g} eV)" for a, b in clashes[:3]
        )
        warnings.append(f"{len(clashes)} frames repeat a geometry with another energy: {first}")
    return warnings


def report(
    structures: Sequence[Structure],
    selection: Selection,
    cutoff: float,
    terms: Sequence[str] = PREDICTED["energy"],
) -> dict[str, Any]:
    """What was read and what was kept, as plain data for scan.json.

    structures: all that were read.  cutoff: Å, distances beyond it are not looked at.
    terms: labels to count.
    """
    kept = selection.structures
    distance, where = min_distance(kept, cutoff)
    warnings = list(selection.warnings)
    if distance is not None and distance < TOUCHING:
        warnings.append(f"two atoms are only {distance:.3f} Å apart in {where}")
    atoms = Counter(symbol for item in kept for symbol in symbols(item.numbers))
    return {
        "frames": len(kept),
        "atoms": sum(atoms.values()),
        "elements": dict(sorted(atoms.items())),
        "min_dist": distance,
        "min_dist_frame": where,
        "files": _files(structures, selection),
        "coverage": coverage(kept, terms),
        "worst": worst(kept),
        "warnings": warnings,
    }


def _files(structures: Sequence[Structure], selection: Selection) -> list[dict[str, Any]]:
    read = Counter(item.source for item in structures)
    kept = Counter(item.source for item in selection.structures)
    return [
        {"file": source, "read": count}
        | {name: selection.dropped.get(source, Counter())[name] for name in FILTERS}
        | {"kept": kept[source]}
        for source, count in read.items()
    ]


def coverage(
    structures: Sequence[Structure], terms: Sequence[str] = PREDICTED["energy"]
) -> list[dict[str, Any]]:
    """Frames, atoms and frames with each label, per file and config_type."""
    groups: dict[tuple[str, str], list[Structure]] = defaultdict(list)
    for item in structures:
        groups[item.source, item.config_type].append(item)
    return [
        {
            "file": source,
            "config_type": config_type,
            "frames": len(items),
            "atoms": sum(map(len, items)),
            "weight": sum(item.weight for item in items) / len(items),
        }
        | {term: sum(item.label(term) is not None for item in items) for term in terms}
        for (source, config_type), items in groups.items()
    ]


def worst(structures: Sequence[Structure], count: int = WORST) -> list[dict[str, Any]]:
    """The kept frames with the largest force; without any forces those of highest energy."""
    rows = [
        {
            "frame": item.where,
            "config_type": item.config_type,
            "energy_per_atom": None if item.energy is None else energy_per_atom(item),
            "max_force": None if item.forces is None else largest_force(item),
        }
        for item in structures
    ]
    by = "max_force" if any(row["max_force"] is not None for row in rows) else "energy_per_atom"
    rows = [row for row in rows if row[by] is not None]
    return sorted(rows, key=lambda row: -row[by])[:count]


def min_distance(structures: Iterable[Structure], cutoff: float) -> tuple[float | None, str | None]:
    """Smallest distance of two atoms (periodic images included) within ``cutoff`` Å, its frame."""
    best, where = cutoff, None
    for item in structures:
        # the radius shrinks to the smallest distance so far, so most frames cost next to nothing
        (distances,) = pairs_within(item.positions, item.cell, item.pbc, best, "d", full=False)
        if len(distances) and distances.min() < best:
            best, where = float(distances.min()), item.where
    return (best, where) if where is not None else (None, None)
