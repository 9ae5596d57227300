"""Properties of a crystal by a model beside those by a reference, kept as they are computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from tqdm import tqdm

from mtp.atomic_file import write_atomically
from mtp.errors import InvalidInput
from mtp.md import Settings
from mtp.properties import (
    Phonons,
    cubic_constants,
    elastic_constants,
    equation_of_state,
    radial_distribution,
    relaxed,
    sample,
    vacancy_energy,
)

Values = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """supercell: Å, the least width of supercells. temperature: K, steps: of the dynamics."""

    properties: tuple[str, ...] = ("eos", "elastic", "phonons", "vacancy", "rdf")
    supercell: float = 10.0
    temperature: float = 300.0
    steps: int = 2000
    timestep: float = 2.0


def validate(
    atoms: Atoms,
    calculators: dict[str, Callable[[], Calculator] | Values],
    options: Options,
    output: Path,
    given: dict[str, str],
) -> dict[str, Values]:
    """Compute what is not yet in OUTPUT/properties.json and write it there, one by one.

    calculators: "model" and "reference" → what makes a calculator, or finished values.
    given: what they are called; a directory of other ones is refused. Returns the values by name.
    """
    if not atoms.pbc.all():
        raise InvalidInput(
            "validate is for crystals: the structure needs three periodic directions"
        )
    path = output / "properties.json"
    found = _begin(path, {"given": given | asdict(options)})
    todo = [(who, name) for who in calculators for name in ("lattice", *options.properties)]
    bar = tqdm(todo, unit="property", disable=None)
    for who, name in bar:
        bar.set_postfix_str(f"{name} by the {who}")
        mine = found.setdefault(who, {})
        if isinstance(calculators[who], dict):
            found[who] = calculators[who]
        elif name not in mine:
            mine[name] = _compute(name, atoms, mine, calculators[who](), options)
            _write(path, found)
    _write(path, found)
    return {who: found[who] for who in calculators}


def read_values(path: Path) -> Values:
    """The model's values in a properties.json, as a reference for another model."""
    try:
        content = json.loads(path.read_text())
        return content.get("model", content)
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"{path}: cannot be read as a reference; expected properties.json of `mtp validate`"
        ) from error


def _begin(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return wanted
    before = json.loads(path.read_text())
    if before.get("given") != json.loads(json.dumps(wanted["given"])):
        raise InvalidInput(
            f"{path.parent}: holds a validation with other options; choose another --output"
        )
    return before


def _write(path: Path, found: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())


def _compute(
    name: str, atoms: Atoms, before: Values, calculator: Calculator, options: Options
) -> Values:
    """One property as plain data; one that cannot be had says why under "failed"."""
    try:
        if name == "lattice":
            return _lattice(atoms, calculator)
        if "failed" in before["lattice"]:
            return {"failed": "there is no relaxed crystal"}
        crystal = atoms.copy()
        crystal.set_cell(before["lattice"]["cell"])
        crystal.set_scaled_positions(before["lattice"]["scaled_positions"])
        return PROPERTIES[name](crystal, calculator, options)
    except (InvalidInput, FloatingPointError, NotImplementedError) as error:
        return {"failed": str(error)}


def _lattice(atoms: Atoms, calculator: Calculator) -> Values:
    crystal = relaxed(atoms, calculator)
    return {
        "cell": crystal.cell.array.tolist(),
        "scaled_positions": crystal.get_scaled_positions().tolist(),
        "parameters": crystal.cell.cellpar().tolist(),
        "volume_A3_per_atom": crystal.get_volume() / len(crystal),
        "energy_eV_per_atom": crystal.get_potential_energy() / len(crystal),
    }


def _eos(crystal: Atoms, calculator: Calculator, options: Options) -> Values:
    found = equation_of_state(crystal, calculator)
    return {
        "volumes_A3_per_atom": found.volumes.tolist(),
        "energies_eV_per_atom": found.energies.tolist(),
        "bulk_modulus_GPa": found.bulk_modulus,
    }


def _elastic(crystal: Atoms, calculator: Calculator, options: Options) -> Values:
    matrix = elastic_constants(crystal, calculator)
    means = {name: float(value) for name, value in cubic_constants(matrix).items()}
    return {"matrix_GPa": matrix.tolist(), "means_GPa": means}


def _phonons(crystal: Atoms, calculator: Calculator, options: Options) -> Values:
    phonons = Phonons(crystal, calculator, repeats(crystal, options.supercell))
    path = phonons.along()
    return {
        "supercell": list(phonons.repeat),
        "gamma_THz": phonons.frequencies(np.zeros(3)).tolist(),
        "commensurate_THz": phonons.commensurate().tolist(),
        "path": {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in path.items()},
    }


def _vacancy(crystal: Atoms, calculator: Calculator, options: Options) -> Values:
    repeat = repeats(crystal, options.supercell)
    return {
        "supercell": list(repeat),
        "energy_eV": vacancy_energy(crystal, calculator, repeat),
    }


def _rdf(crystal: Atoms, calculator: Calculator, options: Options) -> Values:
    supercell = crystal.repeat(repeats(crystal, options.supercell))
    settings = Settings(
        temperature=options.temperature,
        steps=options.steps,
        timestep=options.timestep,
        every=20,
    )
    frames = sample(supercell, calculator, settings)
    r, g = radial_distribution(frames, min(8.0, 0.75 * options.supercell))
    return {"temperature_K": options.temperature, "r_A": r.tolist(), "g": g.tolist()}


PROPERTIES: dict[str, Callable[[Atoms, Calculator, Options], Values]] = {
    "eos": _eos,
    "elastic": _elastic,
    "phonons": _phonons,
    "vacancy": _vacancy,
    "rdf": _rdf,
}


def repeats(atoms: Atoms, width: float) -> tuple[int, int, int]:
    """How often to repeat a cell so that it is at least `width` Å wide in every direction."""
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    return tuple(int(n) for n in np.ceil(width / heights - 1e-6))


def compare(values: dict[str, Values]) -> list[tuple[str, str, float, float]]:
    """(quantity, unit, by the model, by the reference) of every number; NaN where there is none."""
    model, reference = values["model"], values.get("reference", {})
    rows = []
    for quantity, unit, place in _NUMBERS:
        pair = [_at(one, place) for one in (model, reference)]
        if np.isfinite(pair[0]) or np.isfinite(pair[1]):
            rows.append((quantity, unit, *pair))
    for quantity, unit, place, measure in _CURVES:
        curves = [np.array(_at(one, place, [])) for one in (model, reference)]
        if curves[0].size and curves[0].shape == curves[1].shape:
            rows.append((quantity, unit, measure(curves[0] - curves[1]), 0.0))
    return rows


def _at(values: Values, place: Sequence[str | int], absent: Any = float("nan")) -> Any:
    for key in place:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return absent
    return values


_NUMBERS = (
    *((f"lattice parameter {'abc'[k]}", "Å", ("lattice", "parameters", k)) for k in range(3)),
    ("volume", "Å³/atom", ("lattice", "volume_A3_per_atom")),
    ("energy", "eV/atom", ("lattice", "energy_eV_per_atom")),
    ("bulk modulus (curve)", "GPa", ("eos", "bulk_modulus_GPa")),
    *((name, "GPa", ("elastic", "means_GPa", name)) for name in ("C11", "C12", "C44")),
    ("bulk modulus (Voigt)", "GPa", ("elastic", "means_GPa", "bulk")),
    ("shear modulus (Voigt)", "GPa", ("elastic", "means_GPa", "shear")),
    ("highest frequency at Γ", "THz", ("phonons", "gamma_THz", -1)),
    ("vacancy energy", "eV", ("vacancy", "energy_eV")),
)
_CURVES = (
    (
        *("difference of frequencies, rms", "THz", ("phonons", "commensurate_THz")),
        lambda d: float(np.sqrt((d**2).mean())),
    ),
    ("difference of g(r), mean", "", ("rdf", "g"), lambda d: float(np.abs(d).mean())),
)
