"""Species shifts: the part of an energy or a polarizability that only counts atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from mtp.errors import DataError
from mtp.geometry import pairs_within
from mtp.structure import Structure

RANK = 1e-9  # singular values below this part of the largest count as zero
ALONE = 8.0  # Å: one atom without neighbours within this is isolated
COHESION = 12.0  # eV/atom: no element binds this strongly; more means the wrong e0
SCATTER = 2.0  # eV/atom: compositions leave more than this unexplained → energies do not match


@dataclass(frozen=True)
class Shifts:
    """e0 of each species with a report on how well they are known.

    species: atomic numbers, the order of ``values``.  values: eV.  rms: of (E - Σ e0) / N over
    ``frames`` structures in meV/atom.  undetermined: groups of elements whose shifts the data do
    not separate.  Shifts of polarizabilities (unit Å³) are isotropic: of tr α / 3, rms in 10⁻³ Å³.
    """

    species: tuple[int, ...]
    values: tuple[float, ...]
    mode: str
    rms: float | None
    frames: int
    undetermined: tuple[tuple[str, ...], ...] = ()
    warnings: tuple[str, ...] = ()
    unit: str = "eV"

    @property
    def array(self) -> np.ndarray:
        """(species,) in the unit, float64."""
        return np.array(self.values)

    def energy(self, item: Structure) -> float:
        """Σ e0 of a structure in eV."""
        return float(_counts([item], self.species)[0] @ self.array)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, shifts by element."""
        named = {chemical_symbols[z]: e for z, e in zip(self.species, self.values, strict=True)}
        return asdict(self) | {"species": list(named), "values": named}


def fit_shifts(
    structures: Sequence[Structure],
    species: Sequence[int],
    mode: str | Mapping[str, float] = "lstsq",
) -> Shifts:
    """Shifts of the species (atomic numbers) from the structures that have an energy.

    mode: "lstsq" (weighted least squares of energies per atom on compositions; what the data do
    not determine takes the mean energy per atom), "isolated" (energies of single atoms in the
    data), or given shifts in eV by element symbol.
    DataError for an unknown mode or element and for elements without a shift.
    """
    species = tuple(int(number) for number in species)
    labelled = [item for item in structures if item.energy is not None]
    undetermined: tuple[tuple[str, ...], ...] = ()
    warnings: list[str] = []
    if isinstance(mode, Mapping):
        name, values = "given", _given(mode, species)
    elif mode == "isolated":
        name, values = mode, _isolated(labelled, species)
    elif mode == "lstsq":
        name = mode
        values, undetermined = _least_squares(labelled, species)
        if undetermined:
            warnings.append(_undetermined_words(undetermined, bool(labelled)))
    else:
        raise DataError(f'e0 must be "lstsq", "isolated" or energies by element, got {mode!r}')
    rms, doubt = _consistency(labelled, species, values, name)
    return Shifts(
        species, tuple(values.tolist()), name, rms, len(labelled), undetermined,
        tuple(warnings + doubt),
    )  # fmt: skip


def isotropic_shifts(
    structures: Sequence[Structure], species: Sequence[int], selected: Sequence[int] = ()
) -> Shifts:
    """Isotropic polarizabilities of the species in Å³, from those of atoms or else of structures.

    Means over the atoms of each species where atoms are labelled; else least squares of tr α / 3
    per atom on compositions, undetermined shifts as in `fit_shifts`.
    selected: species that contribute, () for all; the shifts of others are 0.
    """
    species = tuple(int(number) for number in species)
    fitted = tuple(z for z in species if z in selected) if selected else species
    atoms = [item for item in structures if item.atomic_polarizability is not None]
    labelled = atoms or [item for item in structures if item.polarizability is not None]
    counts = _counts(labelled, species)[:, [species.index(z) for z in fitted]]
    if atoms:
        totals = np.array([item.atomic_polarizability[:, :3].sum() / 3 for item in atoms])
        values, groups = _means_of_atoms(atoms, fitted)
    else:
        totals = np.array([item.polarizability[:3].mean() for item in labelled])
        weight = np.array([item.weight for item in labelled])
        values, groups = _solve(counts, totals, weight, fitted)
    rms = None
    if labelled:
        rest = (totals - counts @ values) / np.maximum(counts.sum(axis=1), 1)
        rms = 1e3 * float(np.sqrt(np.mean(rest**2)))
    found = dict(zip(fitted, values.tolist(), strict=True))
    names = "; ".join(" ".join(group) for group in groups)
    warnings = (
        f"the data do not determine the isotropic polarizabilities of {names}; those of other "
        "compositions are unreliable",
    )
    return Shifts(
        species, tuple(found.get(z, 0.0) for z in species), "isotropic", rms, len(labelled),
        groups, warnings if groups else (), unit="Å³",
    )  # fmt: skip


def no_shifts(species: Sequence[int], unit: str) -> Shifts:
    """Zeros: what only counts atoms adds nothing to a vector."""
    return Shifts(tuple(map(int, species)), (0.0,) * len(species), "none", None, 0, unit=unit)


def _means_of_atoms(
    structures: list[Structure], species: tuple[int, ...]
) -> tuple[np.ndarray, tuple[tuple[str, ...], ...]]:
    """Mean of tr α / 3 over the atoms of each species, and the species that have none."""
    numbers = np.concatenate([item.numbers for item in structures])
    traces = np.concatenate([item.atomic_polarizability[:, :3].mean(1) for item in structures])
    weight = np.concatenate([np.full(len(item), item.weight) for item in structures])
    values, missing = np.zeros(len(species)), []
    for i, z in enumerate(species):
        mine = numbers == z
        if weight[mine].any():
            values[i] = np.average(traces[mine], weights=weight[mine])
        else:
            missing.append((chemical_symbols[z],))
    return values, tuple(missing)


def _counts(structures: Sequence[Structure], species: Sequence[int]) -> np.ndarray:
    """(structures, species) atoms of each species; DataError for a species not listed."""
    table = np.full(max(max(species), 1) + 1, -1)
    table[list(species)] = np.arange(len(species))
    counts = np.zeros((len(structures), len(species)))
    for row, item in zip(counts, structures, strict=True):
        inside = item.numbers <= max(species)
        if not inside.all() or (table[item.numbers] < 0).any():
            strange = sorted({chemical_symbols[z] for z in item.numbers if z not in species})
            known = [chemical_symbols[z] for z in species]
            raise DataError(f"{item.where}: elements {strange} are not among {known}")
        row += np.bincount(table[item.numbers], minlength=len(species))
    return counts


def _least_squares(
    structures: list[Structure], species: tuple[int, ...]
) -> tuple[np.ndarray, tuple[tuple[str, ...], ...]]:
    """Shifts nearest to the mean energy per atom among all that fit best, and open groups."""
    energy = np.array([item.energy for item in structures])
    weight = np.array([item.weight for item in structures])
    return _solve(_counts(structures, species), energy, weight, species)


def _solve(
    counts: np.ndarray, totals: np.ndarray, weight: np.ndarray, species: tuple[int, ...]
) -> tuple[np.ndarray, tuple[tuple[str, ...], ...]]:
    """The same from (structures, species) counts and totals of the structures."""
    atoms = counts.sum(axis=1)
    counts, totals, weight, atoms = (one[atoms > 0] for one in (counts, totals, weight, atoms))
    if not len(totals):
        return np.zeros(len(species)), tuple((chemical_symbols[z],) for z in species)
    per_atom = totals / atoms
    weight = np.sqrt(weight) if weight.any() else np.ones(len(totals))
    mean = float(np.average(per_atom, weights=weight**2))
    rows = weight[:, None] * counts / atoms[:, None]
    # the normal matrix would square the condition number; QR keeps it and drops the long side
    q, r = np.linalg.qr(rows)
    u, s, vt = np.linalg.svd(r)
    rank = int(np.sum(s > RANK * s[0]))
    target = u.T @ (q.T @ (weight * (per_atom - mean)))
    values = mean + vt[:rank].T @ (target[:rank] / s[:rank])
    return values, _open_groups(vt[rank:], species)


def _open_groups(null: np.ndarray, species: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
    """Elements that share a direction the data say nothing about; null: (directions, species)."""
    linked = np.abs(null.T @ null) > 1e-6
    groups: list[set[int]] = []
    for i in np.flatnonzero(linked.diagonal()):
        group = set(np.flatnonzero(linked[i]).tolist())
        for other in [g for g in groups if g & group]:
            groups.remove(other)
            group |= other
        groups.append(group)
    ordered = sorted(map(sorted, groups))
    return tuple(tuple(chemical_symbols[species[i]] for i in group) for group in ordered)


def _undetermined_words(groups: tuple[tuple[str, ...], ...], any_energy: bool) -> str:
    if not any_energy:
        return "no frame has an energy: species shifts are not fitted"
    names = "; ".join(" ".join(group) for group in groups)
    return (
        f"compositions do not separate the species shifts of {names}; energies of other "
        'compositions are unreliable (data_config e0 takes "isolated" or values)'
    )


def _isolated(structures: list[Structure], species: tuple[int, ...]) -> np.ndarray:
    """Energy of the lowest isolated atom of each species."""
    found: dict[int, float] = {}
    for item in structures:
        if len(item) == 1 and is_isolated(item):
            number = int(item.numbers[0])
            found[number] = min(found.get(number, np.inf), item.energy)
    missing = [chemical_symbols[number] for number in species if number not in found]
    if missing:
        raise DataError(
            f'e0 "isolated": no single-atom frame with an energy for {", ".join(missing)}; '
            'add such frames, give the energies, or use "lstsq"'
        )
    return np.array([found[number] for number in species])


def is_isolated(item: Structure) -> bool:
    """Whether a single atom is alone: no periodic image within 8 Å."""
    if len(item) != 1:
        return False
    if not item.pbc.any():
        return True
    (centres,) = pairs_within(item.positions, item.cell, item.pbc, ALONE, "i", full=False)
    return len(centres) == 0


def _given(mode: Mapping[str, float], species: tuple[int, ...]) -> np.ndarray:
    unknown = [symbol for symbol in mode if atomic_numbers.get(symbol, 0) < 1]
    if unknown:
        raise DataError(f"e0: {unknown} are not element symbols")
    missing = [chemical_symbols[z] for z in species if chemical_symbols[z] not in mode]
    if missing:
        raise DataError(f"e0: no energy for {', '.join(missing)}, given are {sorted(mode)}")
    values = np.array([float(mode[chemical_symbols[z]]) for z in species])
    if not np.isfinite(values).all():
        raise DataError(f"e0 must be finite numbers in eV, got {dict(mode)}")
    return values


def _consistency(
    structures: list[Structure], species: tuple[int, ...], values: np.ndarray, mode: str
) -> tuple[float | None, list[str]]:
    """Weighted rms of (E - Σ e0) / N in meV/atom and doubts in words."""
    if not structures:
        return None, []
    counts = _counts(structures, species)
    energy = np.array([item.energy for item in structures])
    rest = (energy - counts @ values) / counts.sum(axis=1)
    weight = np.array([item.weight for item in structures])
    rms = float(np.sqrt(np.average(rest**2, weights=weight if weight.any() else None)))
    doubt = []
    middle = float(np.median(rest))
    if mode != "lstsq" and abs(middle) > COHESION:
        doubt.append(
            f"e0 {mode}: median (E - Σ e0) / N is {middle:.1f} eV/atom, more than any element "
            "binds; are e0 and energies from the same method?"
        )
    if mode == "lstsq" and rms > SCATTER:
        doubt.append(
            f"species shifts leave {rms:.2f} eV/atom of the energies unexplained; "
            "are all energies totals from the same method?"
        )
    return 1e3 * rms, doubt
