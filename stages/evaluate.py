"""What a trained potential is worth on labelled structures: predictions, errors, tables."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from mtp.errors import InvalidInput
from mtp.structure import Structure
from mtp.terms import PREDICTED, TERMS
from stages.metrics import MEASURES, metrics
from stages.predictions import Predictions, write_predicted

if TYPE_CHECKING:
    from mtp.potential import HeadSpec, Potential

ATOMS_PER_BATCH = 4096


@dataclass(frozen=True)
class Column:
    """A term of a table of errors with the keys of its numbers in metrics.json."""

    term: str
    unit: str
    mae: str
    rmse: str

    @classmethod
    def of(cls, term: str) -> Column:
        measure = MEASURES[term]
        key = "GPa" if term == "stress" else measure.key
        return cls(term, measure.unit, f"{term}_mae_{key}", f"{term}_rmse_{key}")


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[Column]:
    """What a table of these sets' numbers shows: all terms of heads of that kind.

    Quantities of atoms of tensor heads only where they are labelled.
    """
    keys = {key for row in rows for key in row}
    present = [term for term in TERMS if Column.of(term).mae in keys]
    kinds = [kind for kind, terms in PREDICTED.items() if set(terms) & set(present)] or ["energy"]
    return [
        Column.of(term)
        for kind in kinds
        for term in PREDICTED[kind]
        if kind == "energy" or term in present
    ]


def predict_structures(
    potential: Potential, structures: Sequence[Structure], head: str = "default"
) -> Predictions:
    """Predict what a head predicts of structures, a few thousand atoms at a time.

    Raises InvalidInput, naming elements and frames, when an element is not in the potential.
    """
    from mtp.geometry import Geometry

    check_elements(potential, structures)
    spec, device = potential.spec, potential.radial.device
    which = spec.head(head)
    found: dict[str, list[np.ndarray]] = {term: [] for term in PREDICTED[which.kind]}
    for chunk in _chunks(structures):
        geometry = Geometry(chunk, spec.species, spec.cutoff, potential.dtype, device, terms=())
        prediction = potential.predict(geometry.batch(), head)
        for term, parts in found.items():
            parts.append(prediction.values[term].double().cpu().numpy())
    values = {t: np.concatenate(parts) if parts else np.zeros(0) for t, parts in found.items()}
    return Predictions.collect(structures, values, which.species)


def evaluate_files(
    model_path: str | Path,
    files: Sequence[str | Path],
    head: str | None = None,
    predictions: str | Path | None = None,
    type_map: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Errors of a model file on data files: {head: {path as given: numbers}}, as in metrics.json.

    model_path: or a file of MLIP.  head: which one to test; all that have labels in the files when
    it is None.  predictions: write every frame there as extended xyz, with the predicted values
    beside the labels.  type_map: element symbols of types 0, 1, … of files without elements.
    names: term → name of its label in the files where it is not a usual one.
    Raises InvalidInput for an unknown head or element, DataError for files that cannot be read.
    """
    from mtp.data.frame import atomic_number
    from mtp.mlip_import import load_potential

    types = type_map and [atomic_number(symbol, "type_map") for symbol in type_map]
    potential = load_potential(model_path, types)
    candidates = _candidates(potential, head, model_path)
    data = {
        path: read_for(candidates, path, type_map, names or {})
        for path in dict.fromkeys(map(str, files))
    }
    free = len(candidates) == 1 and predictions is not None  # nothing to compare with is needed
    heads = candidates if free else _with_labels(candidates, data, model_path)
    found = {
        h.name: {
            path: predict_structures(potential, frames[h.name], h.name)
            for path, frames in data.items()
        }
        for h in heads
    }
    if predictions is not None:
        merged = [frame for frames in data.values() for frame in _merged(list(frames.values()))]
        write_predicted(predictions, merged, {h: list(s.values()) for h, s in found.items()})
    return metrics(found)


def read_for(
    heads: Sequence[HeadSpec],
    path: str | Path,
    type_map: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> dict[str, list[Structure]]:
    """Head → the structures of a file with the labels that it predicts, the same frames for all.

    names: see `evaluate_files`.  Frames with a label that is not finite are left out with a
    warning. Raises DataError for a file that cannot be read or lacks a name that was given.
    """
    from mtp.data import DataError, LabelKeys, iread
    from mtp.data.labels import Seen
    from mtp.data.reading import is_finite

    names, seen, read = dict(names or {}), Seen(), {}
    for kind, species in dict.fromkeys((h.kind, h.species) for h in heads):
        own = {term: name for term, name in names.items() if term in PREDICTED[kind]}
        keys = LabelKeys(**own, terms=PREDICTED[kind], selected=species)
        read[kind, species] = list(iread(path, keys, type_map=type_map, seen=seen))
        seen.check(keys, str(path))
    usable = [all(map(is_finite, frames)) for frames in zip(*read.values(), strict=True)]
    if not usable:
        raise DataError(f"{path}: there is no structure in it")
    lines = seen.warnings()
    if not all(usable):
        lines.append(f"left out {usable.count(False)} frames with NaN or infinity")
    for line in lines:
        warnings.warn(line, stacklevel=2)
    return {h.name: list(compress(read[h.kind, h.species], usable)) for h in heads}


def _merged(frames: Sequence[Sequence[Structure]]) -> list[Structure]:
    """The same structures with the labels of all lists."""
    found = []
    for same in zip(*frames, strict=True):
        labels = {
            t: next((x for s in same if (x := getattr(s, t)) is not None), None) for t in TERMS
        }
        found.append(replace(same[0], **labels))
    return found


def check_elements(potential: Potential, structures: Sequence[Structure]) -> None:
    """Raise InvalidInput when a structure has an element that the potential does not know."""
    species = np.array(potential.spec.species)
    frames: dict[int, list[str]] = {}
    for structure in structures:
        for number in np.setdiff1d(structure.numbers, species):
            frames.setdefault(int(number), []).append(structure.where)
    if frames:
        known = " ".join(chemical_symbols[number] for number in species)
        raise InvalidInput(
            *(
                f"{chemical_symbols[number]} is not in the model (it knows {known}): "
                f"{len(where)} frame{'s' if len(where) > 1 else ''}, first {', '.join(where[:3])}; "
                "leave them out or use a model that was trained with this element"
                for number, where in sorted(frames.items())
            )
        )


def format_table(values: dict[str, dict[str, Any]]) -> str:
    """The content of metrics.json as a table for the terminal; "–" where there is no label.

    Heads that predict different things stand in tables of their own.
    """
    tables: dict[tuple[Column, ...], list[tuple[str, dict[str, Any]]]] = {}
    for head, sets in values.items():
        rows = tables.setdefault(tuple(columns_of(sets.values())), [])
        single = list(values) == ["default"]
        rows += [(name if single else f"{head}: {name}", row) for name, row in sets.items()]
    return "\n\n".join(_table(columns, rows) for columns, rows in tables.items())


def _table(columns: Sequence[Column], rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    width = max([len(name) for name, _ in rows] + [3])
    titles = [f"{column.term} ({column.unit})" for column in columns]
    widths = [max(20, len(title) + 2) for title in titles]
    lines = [
        f"{'':{width}}{'':8}" + "".join(f"{t:>{w}}" for t, w in zip(titles, widths, strict=True)),
        f"{'set':{width}}{'frames':>8}" + "".join(f"{'MAE':>{w - 9}}{'RMSE':>9}" for w in widths),
    ]
    for name, row in rows:
        cells = (
            f"{_cell(row, column.mae):>{w - 9}}{_cell(row, column.rmse):>9}"
            for column, w in zip(columns, widths, strict=True)
        )
        lines.append(f"{name:{width}}{row['frames']:>8}{''.join(cells)}")
    return "\n".join(lines)


def three_digits(value: float) -> str:
    """Three significant digits without an exponent where that reads well."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        digits = 2 if value == 0 else max(0, 2 - int(np.floor(np.log10(abs(value)))))
        return f"{value:.{digits}f}"
    return f"{value:.1e}"


def _candidates(potential: Potential, head: str | None, path: str | Path) -> list[HeadSpec]:
    """The head that was asked for, or all."""
    heads = list(potential.spec.heads)
    if head is None:
        return heads
    if head not in potential.spec.head_names:
        names = ", ".join(potential.spec.head_names)
        raise InvalidInput(f"{path}: --head must be one of {names}; {head!r} was given")
    return [potential.spec.head(head)]


def _with_labels(
    heads: Sequence[HeadSpec], data: Mapping[str, dict[str, list[Structure]]], path: str | Path
) -> list[HeadSpec]:
    found = [
        head
        for head in heads
        if any(
            frame.label(term) is not None
            for frames in data.values()
            for frame in frames[head.name]
            for term in PREDICTED[head.kind]
        )
    ]
    if not found:
        raise InvalidInput(
            f"{path}: no frame has a label that one of its heads predicts "
            f"({', '.join(f'{one.name}: {one.kind}' for one in heads)}); "
            "--head NAME and --predictions OUT.xyz predict without labels"
        )
    return found


def _cell(row: dict[str, Any], key: str) -> str:
    return three_digits(row[key]) if key in row else "–"


def _chunks(structures: Sequence[Structure]) -> Iterator[list[Structure]]:
    """Structures in order, together at most ATOMS_PER_BATCH atoms (or one structure)."""
    chunk: list[Structure] = []
    atoms = 0
    for structure in structures:
        if chunk and atoms + len(structure) > ATOMS_PER_BATCH:
            yield chunk
            chunk, atoms = [], 0
        chunk.append(structure)
        atoms += len(structure)
    if chunk:
        yield chunk
