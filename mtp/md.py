"""Molecular dynamics with any calculator: ensembles, rules that stop a run, saved states."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet

from mtp.errors import InvalidInput
from mtp.geometry import pairs_within

GPA = units.GPa
EXPLODED = 1e5  # K
DONE = "done"
BAROSTAT = ("p_eps", "force_eps", "gamma_mod")  # what LangevinBAOAB carries from step to step


@dataclass(frozen=True)
class Settings:
    """A run. Temperatures in K, pressure in GPa, times in fs, distances in Å.

    nve: velocity Verlet. nvt: Langevin. npt: Langevin with a barostat that keeps the cell's shape.
    until: the temperature at the last step; it changes linearly from `temperature`.
    every: steps between frames. max_grade, min_distance: stop when an atom's extrapolation grade
    is larger, when two atoms are closer; grades are looked at in every step.
    """

    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    temperature: float = 300.0
    until: float | None = None
    pressure: float = 0.0
    timestep: float = 1.0
    steps: int = 1000
    every: int = 10
    damping: float = 100.0  # time constant of the thermostat
    barostat: float = 1000.0  # time constant of the barostat
    seed: int = 0
    max_grade: float | None = None
    min_distance: float | None = None

    def check(self, atoms: Atoms) -> None:
        """Raises InvalidInput for what cannot run."""
        lines = [
            f"{name} must be more than 0, got {getattr(self, name):g}"
            for name in ("timestep", "every", "damping", "barostat")
            if not getattr(self, name) > 0
        ]
        if self.steps < 0:
            lines.append(f"steps must be 0 or more, got {self.steps}")
        if self.max_grade is not None and not self.max_grade > 0:
            lines.append(f"max_grade must be more than 0, got {self.max_grade:g}")
        if self.temperature < 0 or (self.until is not None and self.until < 0):
            lines.append("temperatures must be 0 K or more")
        if self.until is not None and self.ensemble == "nve":
            lines.append("nve has no thermostat: leave out the second temperature, or take nvt")
        if self.ensemble == "npt" and not atoms.pbc.all():
            lines.append("npt needs three periodic directions; take nvt")
        if lines:
            raise InvalidInput(*lines)


class Simulation:
    """Atoms with a calculator in motion; `step` counts from 0.

    Atoms without velocities get those of the temperature, without total momentum. Atoms are moved
    in place.
    """

    def __init__(self, atoms: Atoms, settings: Settings) -> None:
        settings.check(atoms)
        self.atoms, self.settings = atoms, settings
        self.random = np.random.default_rng(settings.seed)
        self.step = 0
        if not atoms.has("momenta"):
            start_velocities(atoms, settings.temperature, self.random)
        self._dynamics = self._make()

    def run(self, observe: Callable[[Simulation], None], steps: int | None = None) -> str:
        """Go on to the last step (or `steps` further); returns why it ended: DONE, or the reason.

        observe: called at the start and every `every` steps, before the rules are applied.
        """
        last = self.settings.steps if steps is None else self.step + steps
        if self.step == 0:
            self.atoms.get_forces()
            observe(self)
        reason = self._reason(every_rule=True)
        while reason is None and self.step < last:
            self._set_temperature()
            self._dynamics.step()
            self.step += 1
            due = self.step % self.settings.every == 0
            if due:
                observe(self)
            reason = self._reason(every_rule=due)
        return reason or DONE

    @property
    def thermo(self) -> dict[str, float]:
        """The state in numbers, the columns of a thermo log; absent ones are not a number."""
        atoms = self.atoms
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        try:
            pressure = -atoms.get_stress(include_ideal_gas=True)[:3].mean() / GPA
            volume = atoms.get_volume()
        except PropertyNotImplementedError:
            pressure = volume = float("nan")
        return {
            "step": self.step,
            "time_ps": self.step * self.settings.timestep / 1000,
            "temperature_K": atoms.get_temperature(),
            "potential_eV": potential,
            "kinetic_eV": kinetic,
            "total_eV": potential + kinetic,
            "pressure_GPa": pressure,
            "volume_A3": volume,
            "grade": atoms.calc.results.get("grade", float("nan")),
        }

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a run goes on from, as arrays."""
        atoms = self.atoms
        return {
            "step": np.array(self.step),
            "positions": atoms.positions,
            "momenta": atoms.get_momenta(),
            "cell": atoms.cell.array,
            "barostat": np.array([getattr(self._dynamics, name, 0.0) for name in BAROSTAT]),
            "random": np.array(json.dumps(self.random.bit_generator.state)),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` returned."""
        self.step = int(state["step"])
        self.atoms.set_cell(state["cell"])
        self.atoms.positions = state["positions"]
        self.atoms.set_momenta(state["momenta"])
        self.random.bit_generator.state = json.loads(str(state["random"]))
        self._dynamics = self._make()
        if self.settings.ensemble == "npt":
            for name, value in zip(BAROSTAT, state["barostat"].tolist(), strict=True):
                setattr(self._dynamics, name, value)

    def _make(self) -> MolecularDynamics:
        settings, atoms, time = self.settings, self.atoms, self.settings.timestep * units.fs
        damping, temperature = settings.damping * units.fs, settings.temperature
        if settings.ensemble == "nve":
            return VelocityVerlet(atoms, time)
        if settings.ensemble == "nvt":
            options: dict[str, Any] = {"fixcm": False, "rng": self.random}
            return Langevin(atoms, time, temperature_K=temperature, friction=1 / damping, **options)
        period = settings.barostat * units.fs
        mass = (period / (4 * 1.66 * units.fs) * len(atoms) ** (1 / 6)) ** 2  # ASE's heuristic
        return LangevinBAOAB(
            atoms,
            time,
            temperature_K=temperature,
            externalstress=-settings.pressure * GPA,
            hydrostatic=True,
            T_tau=damping,
            P_tau=period,
            P_mass=mass,
            rng=self.random,
        )

    def _set_temperature(self) -> None:
        settings = self.settings
        if settings.until is None:
            return
        part = self.step / max(settings.steps, 1)
        now = settings.temperature + part * (settings.until - settings.temperature)
        self._dynamics.set_temperature(temperature_K=now)

    def _reason(self, every_rule: bool) -> str | None:
        """Why to stop now."""
        settings = self.settings
        grade = self.atoms.calc.results.get("grade")
        if settings.max_grade is not None and grade is not None and grade > settings.max_grade:
            return f"grade {grade:.3g} is above {settings.max_grade:g}"
        if not every_rule:
            return None
        if self.atoms.get_temperature() > EXPLODED:
            return f"temperature {self.atoms.get_temperature():.3g} K: the simulation exploded"
        if settings.min_distance is not None:
            near = closest(self.atoms, settings.min_distance)
            if near is not None:
                return f"two atoms are {near:.3f} Å apart, below {settings.min_distance:g}"
        return None


def start_velocities(atoms: Atoms, temperature: float, random: np.random.Generator) -> None:
    """Maxwell's velocities of a temperature (K), without total momentum."""
    masses = atoms.get_masses()[:, None]
    momenta = random.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * temperature)
    if len(atoms) > 1:
        momenta -= masses / masses.sum() * momenta.sum(axis=0)
    atoms.set_momenta(momenta)


def closest(atoms: Atoms, limit: float) -> float | None:
    """The shortest distance in Å where it is below the limit."""
    (distances,) = pairs_within(
        atoms.positions, atoms.cell.array, atoms.pbc, limit, "d", full=False
    )
    return float(distances.min()) if len(distances) else None
