"""Molecular dynamics with the student: the structures that it meets, and how far it got."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from ase import Atoms
from tqdm import tqdm

from mtp.atomic_file import write_atomically
from mtp.calculator import MTPCalculator
from mtp.data import write
from mtp.errors import InvalidInput
from mtp.grade import thresholds
from mtp.md import DONE, Settings, Simulation
from mtp.structure import Structure
from stages.control.sections.learn import Learn
from stages.learn.setting import Setting

CLOSEST = 0.7  # of the shortest distance of the data


@dataclass(frozen=True)
class Journey:
    """One run of dynamics: how far it got and why it ended; grade: the largest on the way."""

    start: int
    temperature: float
    steps: int
    ended: str
    grade: float
    candidates: int


def explore(setting: Setting, model: Path, folder: Path, round_: int) -> list[Journey]:
    """Every start at every temperature; writes folder/md_*.xyz with the candidates.

    Runs that are there already are not repeated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    calculator = MTPCalculator(model, grade=True)
    runs = list(product(setting.learn.temperatures, range(len(setting.starts))))
    journeys = []
    for k, (kelvin, start) in enumerate(tqdm(runs, unit="run", desc="dynamics", disable=None)):
        record = folder / f"md_{k:03d}.json"
        if not record.exists():
            seed = setting.plan.run.seed + 1000 * round_ + k
            atoms = setting.starts[start].copy()
            atoms.calc = calculator
            journey, frames = _travel(atoms, setting.learn, kelvin, start, seed)
            if frames:
                write(folder / f"md_{k:03d}.xyz", [_structure(f, kelvin, round_) for f in frames])
            write_atomically(record, (json.dumps(asdict(journey), indent=1) + "\n").encode())
        journeys.append(Journey(**json.loads(record.read_text())))
    return journeys


def _travel(
    atoms: Atoms, learn: Learn, kelvin: float, start: int, seed: int
) -> tuple[Journey, list[Atoms]]:
    """One run and its candidates: by grade those above the threshold, otherwise all."""
    frames: list[Atoms] = []
    largest = 0.0
    potential = atoms.calc.potential
    select, stop = thresholds(potential)
    settings = Settings(
        ensemble="nvt" if learn.pressure is None else "npt",
        temperature=kelvin,
        pressure=learn.pressure or 0.0,
        timestep=learn.timestep,
        steps=learn.steps,
        every=learn.interval,
        seed=seed,
        max_grade=learn.grade_break or stop,
        min_distance=learn.min_distance or CLOSEST * potential.spec.min_dist,
    )

    def keep(now: Simulation) -> None:
        nonlocal largest
        grade = now.atoms.calc.results["grade"]
        largest = max(largest, grade)
        if now.step and (learn.selection != "grade" or grade > (learn.grade_select or select)):
            frames.append(now.atoms.copy())

    simulation = Simulation(atoms, settings)
    try:
        ended = simulation.run(keep)
        if ended != DONE and simulation.step % learn.interval:
            keep(simulation)  # where it broke
    except (InvalidInput, FloatingPointError) as error:
        ended = str(error)
    return Journey(start, kelvin, simulation.step, ended, largest, len(frames)), frames


def _structure(atoms: Atoms, kelvin: float, round_: int) -> Structure:
    return Structure(
        atoms.numbers.copy(),
        atoms.positions.copy(),
        atoms.cell.array.copy(),
        atoms.pbc.copy(),
        config_type=f"round {round_}, {kelvin:g} K",
    )
