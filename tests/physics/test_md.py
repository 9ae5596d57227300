"""Molecular dynamics: ensembles against what statistical mechanics says, stops, going on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.io import read
from ase.io.trajectory import Trajectory

from mtp.errors import InvalidInput
from mtp.md import DONE, Settings, Simulation, closest
from stages.md import run_md

GIVEN = {"model": "emt", "structure": "cu.xyz", "repeat": None}


class Springs(Calculator):
    """Every atom tied to its place by a spring: an Einstein crystal."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, places: np.ndarray, constant: float = 5.0) -> None:
        super().__init__()
        self.places, self.constant = places, constant

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        off = atoms.positions - self.places
        energy, forces = 0.5 * self.constant * (off**2).sum(), -self.constant * off
        self.results = {"energy": energy, "forces": forces, "stress": np.zeros(6)}


def copper(repeat: int = 2) -> Atoms:
    atoms = bulk("Cu", cubic=True) * repeat
    atoms.calc = EMT()
    return atoms


def test_nve_conserves_the_energy() -> None:
    rows = []
    settings = Settings("nve", 600.0, timestep=2.0, steps=200, every=10)
    reason = Simulation(copper(), settings).run(lambda now: rows.append(now.thermo))
    assert reason == DONE
    assert [row["step"] for row in rows] == list(range(0, 201, 10))
    total = np.array([row["total_eV"] for row in rows])
    assert np.ptp(total) < 0.05 * np.ptp([row["potential_eV"] for row in rows])
    assert rows[-1]["time_ps"] == pytest.approx(0.4)


def test_nvt_has_the_energy_of_its_temperature() -> None:
    """An Einstein crystal has 3/2 kT of potential energy for each atom."""
    atoms = bulk("Cu", cubic=True) * 3
    atoms.calc = Springs(atoms.positions.copy())
    energies = []
    settings = Settings("nvt", 500.0, timestep=4.0, damping=40.0, steps=1500, every=5)
    Simulation(atoms, settings).run(lambda now: energies.append(now.thermo["potential_eV"]))
    mean = np.mean(energies[100:]) / len(atoms)
    assert mean == pytest.approx(1.5 * units.kB * 500, rel=0.05)


def test_a_ramp_heats() -> None:
    atoms = bulk("Cu", cubic=True) * 3
    atoms.calc = Springs(atoms.positions.copy())
    temperatures = []
    settings = Settings("nvt", 100.0, 900.0, timestep=4.0, damping=20.0, steps=600, every=5)
    Simulation(atoms, settings).run(lambda now: temperatures.append(now.thermo["temperature_K"]))
    first, last = np.mean(temperatures[:30]), np.mean(temperatures[-30:])
    assert 120 < first < 350
    assert 700 < last < 1000


def test_npt_finds_the_pressure() -> None:
    """Copper compressed by 3 % in every direction expands to the pressure that is asked for."""
    atoms = copper()
    atoms.set_cell(atoms.cell * 0.97, scale_atoms=True)
    pressures = []
    settings = Settings(
        *("npt", 300.0, None, 5.0), timestep=4.0, steps=180, every=3, damping=40.0, barostat=100.0
    )
    Simulation(atoms, settings).run(lambda now: pressures.append(now.thermo["pressure_GPa"]))
    assert pressures[0] > 12
    assert np.mean(pressures[30:]) == pytest.approx(5.0, abs=1.5)


def test_stops() -> None:
    settings = Settings("nve", 300.0, steps=50, every=1, min_distance=2.0)
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 3.0]])
    atoms.calc = EMT()
    atoms.set_velocities([[0, 0, 0.05], [0, 0, -0.05]])
    simulation = Simulation(atoms, settings)
    assert "below 2" in simulation.run(lambda now: None)
    assert closest(atoms, 2.0) == pytest.approx(atoms.get_distance(0, 1))
    assert simulation.step < 50

    atoms = copper(1)
    simulation = Simulation(atoms, Settings("nve", 300.0, steps=20, max_grade=3.0))
    atoms.get_forces()
    atoms.calc.results["grade"] = 3.5
    assert simulation.run(lambda now: None) == "grade 3.5 is above 3"


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
@pytest.mark.parametrize("kind", ["xyz", "traj"])
def test_a_killed_run_goes_on(ensemble: str, kind: str, tmp_path: Path, monkeypatch) -> None:
    """As one that was not killed; what was written after the saved state is not there twice."""
    settings = Settings(ensemble, 300.0, steps=30, every=5, damping=20.0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_md(copper(1), settings, whole, given=GIVEN, kind=kind) == DONE

    observe = Simulation.run

    def killed_run(self, observer, steps=None):
        def counting(now):
            observer(now)
            if now.step == 10:
                raise KeyboardInterrupt

        return observe(self, counting, steps)

    monkeypatch.setattr(Simulation, "run", killed_run)
    with pytest.raises(KeyboardInterrupt):
        run_md(copper(1), settings, killed, given=GIVEN, kind=kind)
    monkeypatch.undo()
    with (killed / "thermo.csv").open("a") as file:
        file.write("12,half a li")
    assert run_md(copper(1), settings, killed, given=GIVEN, kind=kind, restart=True) == DONE
    assert (killed / "thermo.csv").read_text() == (whole / "thermo.csv").read_text()
    one, other = (read(folder / f"trajectory.{kind}", ":") for folder in (whole, killed))
    assert len(one) == len(other) == 7
    np.testing.assert_allclose(other[-1].positions, one[-1].positions, atol=1e-7)
    assert json.loads((killed / "md.json").read_text())["ended"] == DONE


def test_what_a_run_leaves(tmp_path: Path) -> None:
    run_md(copper(1), Settings(steps=10, every=5), tmp_path / "a", given=GIVEN, kind="traj")
    with Trajectory(tmp_path / "a" / "trajectory.traj") as frames:
        assert [frame.info["step"] for frame in frames] == [0, 5, 10]
        assert frames[0].get_forces().shape == (4, 3)
    rows = (tmp_path / "a" / "thermo.csv").read_text().splitlines()
    assert rows[0].startswith("step,time_ps,temperature_K,potential_eV")
    assert len(rows) == 4


def test_refusals(tmp_path: Path) -> None:
    settings = Settings(steps=2, every=1)
    run_md(copper(1), settings, tmp_path, given=GIVEN)
    with pytest.raises(InvalidInput, match="holds a run already"):
        run_md(copper(1), settings, tmp_path, given=GIVEN)
    with pytest.raises(InvalidInput, match=r"temperature was 300\.0 when the run began and is 400"):
        run_md(copper(1), replace(settings, temperature=400), tmp_path, given=GIVEN, restart=True)
    with pytest.raises(InvalidInput, match="three periodic directions"):
        Simulation(Atoms("Cu2", [[0, 0, 0], [0, 0, 2]]), Settings("npt"))
    with pytest.raises(InvalidInput, match="nve has no thermostat"):
        Simulation(copper(1), Settings("nve", until=400))
    with pytest.raises(InvalidInput, match="timestep must be more than 0"):
        Simulation(copper(1), Settings(timestep=0))
    with pytest.raises(InvalidInput, match="steps must be 0 or more, got -2"):
        Simulation(copper(1), Settings(steps=-2))
    with pytest.raises(InvalidInput, match="max_grade must be more than 0, got -1"):
        Simulation(copper(1), Settings(max_grade=-1.0))
