"""What a trained potential is worth on labelled structures: predictions, errors, tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols

from mtp.errors import InvalidInput
from mtp.structure import Structure
from stages.metrics import Predictions, metrics

if TYPE_CHECKING:
    from mtp.potential import Potential

ATOMS_PER_BATCH = 4096
COLUMNS = (  # heading, unit, keys of MAE and RMSE in metrics.json
    ("energy", "meV/atom", "energy_mae_meV_per_atom", "energy_rmse_meV_per_atom"),
    ("forces", "meV/Å", "forces_mae_meV_per_A", "forces_rmse_meV_per_A"),
    ("stress", "GPa", "stress_mae_GPa", "stress_rmse_GPa"),
)


def predict_structures(
    potential: Potential, structures: Sequence[Structure], head: str = "default"
) -> Predictions:
    """Predict energies, forces and stresses of structures, a few thousand atoms at a time.

    Raises InvalidInput, naming elements and frames, when an element is not in the potential.
    """
    from mtp.geometry import Geometry

    check_elements(potential, structures)
    spec, device = potential.spec, potential.radial.device
    energy, forces, stress = [np.zeros(0)], [np.zeros((0, 3))], [np.zeros((0, 6))]
    for chunk in _chunks(structures):
        geometry = Geometry(chunk, spec.species, spec.cutoff, potential.dtype, device)
        prediction = potential.predict(geometry.batch(), head)
        energy.append(prediction.energy.cpu().numpy())
        forces.append(prediction.forces.double().cpu().numpy())
        stress.append(prediction.stress.double().cpu().numpy())
    parts = (np.concatenate(one) for one in (energy, forces, stress))
    return Predictions.collect(structures, *parts)


def evaluate_files(
    model_path: str | Path,
    files: Sequence[str | Path],
    head: str | None = None,
    predictions: str | Path | None = None,
    type_map: Sequence[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Errors of a model file on data files: {head: {path as given: numbers}}, as in metrics.json.

    head: which one to test; not needed when the model has one.  predictions: write every frame
    there as extended xyz, with the predicted values beside the labels.  type_map: element symbols
    of types 0, 1, … of files without elements.
    Raises InvalidInput for an unknown head or element, DataError for files that cannot be read.
    """
    from mtp.data.reading import read
    from mtp.model_file import load_model

    potential = load_model(model_path)
    head = _choose_head(potential, head, model_path)
    sets: dict[str, Predictions] = {}
    everything: list[Structure] = []
    for path in dict.fromkeys(map(str, files)):
        structures = read(path, type_map=type_map)
        sets[path] = predict_structures(potential, structures, head)
        everything += structures
    if predictions is not None:
        write_predicted(predictions, everything, list(sets.values()))
    return metrics({head: sets})


def write_predicted(
    path: str | Path, structures: Sequence[Structure], predictions: Sequence[Predictions]
) -> None:
    """Write structures with labels under the usual names and predictions as ``predicted_…``.

    predictions: one or more that together hold the structures in order. Stresses: Voigt, eV/Å³.
    """
    from ase.io import write

    images, rest = [], iter(structures)
    for one in predictions:
        atom_start = np.cumsum(one.atoms_per_structure) - one.atoms_per_structure
        for frame, first in enumerate(atom_start):
            images.append(_image(next(rest), one, frame, int(first)))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write(path, images, format="extxyz")


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
    """The content of metrics.json as a table for the terminal; "–" where there is no label."""
    names = [
        name if list(values) == ["default"] else f"{head}: {name}"
        for head, sets in values.items()
        for name in sets
    ]
    width = max([len(name) for name in names] + [3])
    headings = "".join(f"{f'{heading} ({unit})':>20}" for heading, unit, *_ in COLUMNS)
    lines = [
        f"{'':{width}}{'':8}{headings}",
        f"{'set':{width}}{'frames':>8}" + f"{'MAE':>11}{'RMSE':>9}" * len(COLUMNS),
    ]
    rows = [row for sets in values.values() for row in sets.values()]
    for name, row in zip(names, rows, strict=True):
        cells = (f"{_cell(row, mae):>11}{_cell(row, rmse):>9}" for _, _, mae, rmse in COLUMNS)
        lines.append(f"{name:{width}}{row['frames']:>8}{''.join(cells)}")
    return "\n".join(lines)


def three_digits(value: float) -> str:
    """Three significant digits without an exponent where that reads well."""
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        digits = 2 if value == 0 else max(0, 2 - int(np.floor(np.log10(abs(value)))))
        return f"{value:.{digits}f}"
    return f"{value:.1e}"


def _image(structure: Structure, one: Predictions, frame: int, first: int) -> Atoms:
    """A structure with labels and predictions; its atoms are rows `first`… of the predictions."""
    image = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    labels = {"energy": structure.energy, "forces": structure.forces, "stress": structure.stress}
    present = {name: label for name, label in labels.items() if label is not None}
    image.calc = SinglePointCalculator(image, **present)
    image.info["source"], image.info["index"] = structure.source, structure.index
    if structure.config_type:
        image.info["config_type"] = structure.config_type
    image.info["predicted_energy"] = float(one.energy_predicted[frame])
    image.arrays["predicted_forces"] = one.forces_predicted[first : first + len(structure)]
    if np.isfinite(one.stress_predicted[frame]).all():
        image.info["predicted_stress"] = one.stress_predicted[frame]
    return image


def _choose_head(potential: Potential, head: str | None, path: str | Path) -> str:
    heads = list(potential.spec.head_names)
    if head is None and len(heads) == 1:
        return heads[0]
    if head not in heads:
        came = "none was given" if head is None else f"{head!r} was given"
        raise InvalidInput(f"{path}: --head must be one of {', '.join(heads)}; {came}")
    return head


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
