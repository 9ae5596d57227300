"""From the data section of a plan to train, valid and test structures."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from ase.data import chemical_symbols

from mtp.baseline import Shifts, fit_shifts, is_isolated, isotropic_shifts, no_shifts
from mtp.data.duplicates import Duplicates
from mtp.data.frame import DataError, symbols
from mtp.data.labels import LabelKeys, Seen
from mtp.data.reading import iread
from mtp.data.scan import Selection, report, select
from mtp.data.stress_sign import check_stress
from mtp.structure import Structure
from mtp.terms import PREDICTED, TERMS


class FileLike(Protocol):
    """One data file: path and weight."""

    path: str
    weight: float


class DataOptions(Protocol):
    """What `prepare` reads from a task's data plan; see the plan for meanings."""

    files: Sequence[FileLike]
    test_files: Sequence[FileLike]
    energy_key: str | None
    forces_key: str | None
    stress_key: str | None
    dipole_key: str | None
    polarizability_key: str | None
    atomic_dipole_key: str | None
    atomic_polarizability_key: str | None
    config_type_key: str
    config_type_weights: Mapping[str, float]
    weight_key: str | None
    valid_fraction: float
    max_energy: float
    max_energy_reference: str
    max_forces: float
    e0: str | Mapping[str, float]
    drop_duplicates: bool


@dataclass(frozen=True)
class Dataset:
    """Structures of one task, split, with shifts fitted to train and valid, and the scan.

    species: atomic numbers, the order of the shifts.  scan: plain data for scan.json.
    """

    train: list[Structure]
    valid: list[Structure]
    test: list[Structure]
    species: tuple[int, ...]
    shifts: Shifts
    scan: dict[str, Any]


def prepare(
    options: DataOptions,
    *,
    seed: int = 0,
    cutoff: float = 6.0,
    species: Sequence[int] | None = None,
    type_map: Sequence[str] | None = None,
    kind: str = "energy",
    selected: Sequence[int] = (),
) -> Dataset:
    """Read, weight, filter and split the data of one task.

    Order: read → check → filter → split → shifts. Test files are only checked for labels and
    finite numbers; they influence nothing else. Frames without a label of the task are left out.
    cutoff: Å, how far the smallest distance is looked for.  species: atomic numbers that the
    model knows; None: those of the training files.  type_map: see `read`.
    kind: what the task's head predicts (mtp/terms.py); other labels are read for filters only.
    selected: atomic numbers of the atoms that contribute to a tensor, () for all.
    DataError for anything that cannot be used.
    """
    terms = PREDICTED[kind]
    keys = label_keys(options, kind, selected)
    structures, warnings = load(options, options.files, type_map, keys=keys)
    test, more = load(options, options.test_files, type_map, keys=keys, test=True)
    _check_labelled(structures, kind, options.files)
    raw = select(structures, drop_duplicates=options.drop_duplicates, terms=terms)
    if species is not None:
        check_elements(raw.structures, species)
    selection = _selection(
        options, structures, raw.structures, species or elements(raw.structures), terms
    )
    species = tuple(species or elements(selection.structures))
    check_elements(test, species)
    train, valid = split(selection.structures, options.valid_fraction, seed)
    shifts = _shifts(kind, selection.structures, species, options.e0, selected)
    scan = report(structures, selection, cutoff, terms)
    if test:
        test, lines = _usable_test(test, scan, terms)
        warnings += lines
    warnings += [*more, *scan["warnings"], *shifts.warnings, *check_stress(selection.structures)]
    warnings += _overlap(selection, test)
    if len(train) == 1 and not valid:
        warnings.append("one frame to train on and none for validation: nothing tells overfitting")
    warnings += _unknown_config_types(options.config_type_weights, structures)
    _complete(scan, {"train": train, "valid": valid, "test": test}, shifts, warnings)
    return Dataset(train, valid, test, species, shifts, scan)


def _selection(
    options: DataOptions,
    structures: list[Structure],
    finite: list[Structure],
    species: Sequence[int],
    terms: Sequence[str],
) -> Selection:
    """The frames that pass all filters; with energies above e0, e0 is fitted to those that pass."""
    limits = {
        "max_energy": options.max_energy,
        "max_forces": options.max_forces,
        "drop_duplicates": options.drop_duplicates,
        "terms": terms,
    }
    if options.max_energy_reference != "e0":
        return select(structures, **limits)
    while True:  # bad frames pull a fit upwards; each round leaves out more of them or is the last
        selection = select(structures, shifts=fit_shifts(finite, species, options.e0), **limits)
        if len(selection.structures) >= len(finite):
            return selection
        finite = selection.structures


def _shifts(
    kind: str,
    structures: Sequence[Structure],
    species: Sequence[int],
    e0: str | Mapping[str, float],
    selected: Sequence[int],
) -> Shifts:
    """What a new head of this kind starts from."""
    if kind == "energy":
        return fit_shifts(structures, species, e0)
    if kind == "polarizability":
        return isotropic_shifts(structures, species, selected)
    return no_shifts(species, "e·Å")


def label_keys(
    options: DataOptions, kind: str = "energy", selected: Sequence[int] = ()
) -> LabelKeys:
    """Names of the labels that a task of this kind needs, and of those its filters look at."""
    filters = [("energy", options.max_energy), ("forces", options.max_forces)]
    extra = tuple(term for term, most in filters if most < 1e30 and term not in PREDICTED[kind])
    return LabelKeys(
        **{term: getattr(options, f"{term}_key") for term in TERMS},
        config_type=options.config_type_key,
        weight=options.weight_key,
        terms=PREDICTED[kind] + extra,
        selected=tuple(selected),
    )


def _check_labelled(structures: Sequence[Structure], kind: str, files: Sequence[FileLike]) -> None:
    """DataError where no frame has a label that the task could learn."""
    terms = PREDICTED[kind]
    if any(item.label(term) is not None for item in structures for term in terms):
        return
    keys = " or ".join(f"{term}_key" for term in terms)
    raise DataError(
        f"{', '.join(file.path for file in files)}: no frame has a label of "
        f"{' or '.join(terms)}; name them by {keys}, or give other data"
    )


def _complete(
    scan: dict[str, Any],
    sets: dict[str, list[Structure]],
    shifts: Shifts,
    warnings: Sequence[str],
) -> None:
    """Add to the scan what is known only after the split."""
    scan["sets"] = {name: len(items) for name, items in sets.items()}
    scan["shifts"] = shifts.as_dict()
    scan["fingerprint"] = {name: fingerprint(items) for name, items in sets.items() if items}
    scan["warnings"] = list(dict.fromkeys(warnings))
    valid = Counter(item.source for item in sets["valid"])
    for row in scan["files"]:
        row["valid"] = valid[row["file"]]
        row["train"] = row["kept"] - row["valid"]


def elements(structures: Sequence[Structure]) -> tuple[int, ...]:
    """Atomic numbers that occur, ascending."""
    return tuple(sorted({int(z) for item in structures for z in np.unique(item.numbers)}))


def check_elements(structures: Sequence[Structure], species: Sequence[int]) -> None:
    """DataError with files and first frames when a structure has an element not in ``species``."""
    known, strange = set(species), defaultdict(list)
    for item in structures:
        for number in set(np.unique(item.numbers).tolist()) - known:
            strange[number].append(item)
    lines = [
        f"{', '.join(dict.fromkeys(item.source for item in items))}: {chemical_symbols[number]} "
        f"is not among the model's elements {' '.join(symbols(species))}; {len(items)} frames, "
        f"first {', '.join(item.where for item in items[:3])}; leave them out or train with it"
        for number, items in sorted(strange.items())
    ]
    if lines:
        raise DataError(*lines)


def load(
    options: DataOptions,
    files: Sequence[FileLike],
    type_map: Sequence[str] | None = None,
    *,
    keys: LabelKeys | None = None,
    test: bool = False,
) -> tuple[list[Structure], list[str]]:
    """All structures of the files with their weights, and warnings in words.

    weight = file weight x config_type weight x weight in the frame.  keys: those of an energy task.
    DataError when a key that was given is in no frame of all files, but test files may lack it.
    """
    keys = keys or label_keys(options)
    seen, structures = Seen(), []
    for file in files:
        before = len(structures)
        for item in iread(file.path, keys, type_map=type_map, seen=seen):
            factor = file.weight * options.config_type_weights.get(item.config_type, 1.0)
            structures.append(replace(item, weight=item.weight * factor))
        if len(structures) == before:
            raise DataError(f"{file.path}: there is no structure in it")
    if not test:
        seen.check(keys, ", ".join(file.path for file in files))
    return structures, seen.warnings()


def split(
    structures: Sequence[Structure], valid_fraction: float = 0.1, seed: int = 0
) -> tuple[list[Structure], list[Structure]]:
    """Train and valid in the order given, the same on every platform for a seed.

    Every file gives its share of valid frames (largest remainder); at least one frame is valid
    when there are two. Isolated atoms stay in train: they say nothing about generalisation.
    """
    if not 0 <= valid_fraction < 1:
        raise DataError(f"valid_fraction must be in [0, 1), got {valid_fraction}")
    files: dict[str, list[int]] = defaultdict(list)
    for i, item in enumerate(structures):
        files[item.source]
        if not is_isolated(item):
            files[item.source].append(i)
    if not any(files.values()):
        files = {"": list(range(len(structures)))}
    wanted = max(round(valid_fraction * len(structures)), 1) if len(structures) > 1 else 0
    quota = _shares([len(members) for members in files.values()], wanted)
    chosen: set[int] = set()
    for place, (members, count) in enumerate(zip(files.values(), quota, strict=True)):
        # a stream of its own for each file: adding a file leaves the others' order alone
        order = np.random.Generator(np.random.PCG64([seed, place])).permutation(len(members))
        chosen |= {members[k] for k in order[:count]}
    train = [item for i, item in enumerate(structures) if i not in chosen]
    return train, [structures[i] for i in sorted(chosen)]


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """Integers in proportion to the sizes that add up to ``total`` (largest remainder)."""
    everything = sum(sizes)
    total = min(total, max(everything - 1, 0)) if everything > 1 else min(total, everything)
    exact = [total * size / everything if everything else 0.0 for size in sizes]
    shares = [int(value) for value in exact]
    order = sorted(range(len(sizes)), key=lambda i: (shares[i] - exact[i], i))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares


def fingerprint(structures: Sequence[Structure]) -> str:
    """SHA-256 of geometry, labels and weights in their order; names of files do not count."""
    digest = hashlib.sha256()
    for item in structures:
        digest.update(struct.pack("<q", len(item)))
        digest.update(np.ascontiguousarray(item.numbers, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(item.pbc, dtype="?").tobytes())
        for value in (item.positions, item.cell, item.weight, *_labels(item)):
            digest.update(b"-" if value is None else b"+")
            if value is not None:
                digest.update(np.ascontiguousarray(value, dtype="<f8").tobytes())
        for term in TERMS:
            if term not in PREDICTED["energy"] and getattr(item, term) is not None:
                digest.update(term.encode())
                digest.update(np.ascontiguousarray(getattr(item, term), dtype="<f8").tobytes())
    return digest.hexdigest()


def _labels(item: Structure) -> tuple[Any, ...]:
    return tuple(getattr(item, term) for term in PREDICTED["energy"])


def _usable_test(
    test: list[Structure], scan: dict[str, Any], terms: Sequence[str]
) -> tuple[list[Structure], list[str]]:
    """Test frames with labels and without NaN and infinity, and warnings; fills the scan."""
    if not any(item.label(term) is not None for item in test for term in terms):
        files = ", ".join(dict.fromkeys(item.source for item in test))
        return [], [f"{files}: no test frame has a label of {' or '.join(terms)}: nothing to test"]
    selection = select(test, drop_duplicates=False, terms=terms)
    from_test = report(test, selection, cutoff=0.5, terms=terms)
    scan["test_files"], scan["test_coverage"] = from_test["files"], from_test["coverage"]
    return selection.structures, []


def _overlap(selection: Selection, test: Sequence[Structure]) -> list[str]:
    """One warning when test geometries also stand in the training files."""
    if not test:
        return []
    known = Duplicates()
    for item in selection.structures:
        known.add(item)
    twins = sum(known.find(item) is not None for item in test)
    words = f"{twins} of {len(test)} test frames also stand in the training files"
    return [words] if twins else []


def _unknown_config_types(
    weights: Mapping[str, float], structures: Sequence[Structure]
) -> list[str]:
    there = {item.config_type for item in structures}
    return [
        f"config_type_weights: no frame has config_type {name!r}; there are {sorted(there)[:20]}"
        for name in weights
        if name not in there
    ]
