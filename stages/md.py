"""A run of molecular dynamics in a directory: trajectory, thermo log, restart."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.io.trajectory import Trajectory
from tqdm import tqdm

from mtp.atomic_file import write_atomically
from mtp.errors import InvalidInput
from mtp.md import DONE, Settings, Simulation
from stages.say import say

SAVE_EVERY = 20.0  # seconds
FORMATS = ("xyz", "traj")


def run_md(
    atoms: Atoms,
    settings: Settings,
    output: Path,
    *,
    given: dict[str, Any],
    kind: str = "xyz",
    restart: bool = False,
) -> str:
    """Run atoms, which have their calculator, in a directory; returns why it ended.

    given: names of the model and the structure, which must not change until a restart. kind:
    "xyz" or "traj". restart: go on where the run in `output` stopped; more steps may be asked for.
    Raises InvalidInput for a directory in use and a restart with other settings.
    """
    folder = MDFolder(output, kind)
    wanted = given | asdict(settings) | {"trajectory": kind}
    saved = folder.open(wanted, restart)
    simulation = Simulation(atoms, settings)
    if saved is not None:
        simulation.restore(saved)
        folder.cut(saved)
    folder.begin(wanted)
    bar = tqdm(total=settings.steps, initial=simulation.step, unit="step", disable=None)

    def observe(now: Simulation) -> None:
        folder.record(now)
        bar.update(now.step - bar.n)
        bar.set_postfix_str(f"{now.thermo['temperature_K']:.0f} K", refresh=False)

    try:
        with bar:
            reason = simulation.run(observe)
    except KeyboardInterrupt:
        folder.save(simulation)
        raise
    except (InvalidInput, FloatingPointError) as error:
        if simulation.step == 0:
            raise
        reason = f"the calculator failed: {error}"
    folder.save(simulation)
    folder.write("md.json", wanted | {"ended": reason, "last_step": simulation.step})
    if reason != DONE:
        say(f"stopped at step {simulation.step}: {reason}")
    return reason


class MDFolder:
    """Files of a run; what they hold beyond the last saved state is cut off at a restart."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind
        self.trajectory = path / f"trajectory.{kind}"
        self.log = path / "thermo.csv"
        self.saved = path / "state.npz"
        self.frames = 0
        self._saved_at = time.monotonic()

    def open(self, wanted: dict[str, Any], restart: bool) -> dict[str, np.ndarray] | None:
        """The saved state of a run to go on with."""
        settings = self.path / "md.json"
        if not restart:
            if settings.exists():
                raise InvalidInput(
                    f"{self.path}: holds a run already; go on with it by --restart, or choose "
                    "another directory with --output"
                )
            return None
        if not self.saved.exists():
            return None
        before = json.loads(settings.read_text())
        free = {"steps", "max_grade", "min_distance"}
        lines = [
            f"{self.path}: {name} was {before.get(name)!r} when the run began and is {value!r} "
            "now; a restart goes on with the same, or start in a new directory"
            for name, value in wanted.items()
            if name not in free and before.get(name) != value
        ]
        if lines:
            raise InvalidInput(*lines)
        with np.load(self.saved) as file:
            return dict(file)

    def begin(self, wanted: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.write("md.json", wanted)

    def cut(self, saved: dict[str, np.ndarray]) -> None:
        """Remove what was written after the state was saved."""
        self.frames = int(saved["frames"])
        with self.log.open("rb+") as file:
            file.truncate(int(saved["log_length"]))
        if self.kind == "xyz":
            with self.trajectory.open("rb+") as file:
                file.truncate(int(saved["trajectory_length"]))
            return
        with Trajectory(self.trajectory) as file:
            kept = [file[k] for k in range(self.frames)]
        with Trajectory(self.trajectory, "w") as file:
            for frame in kept:
                file.write(frame)

    def record(self, simulation: Simulation) -> None:
        """Append a frame and a line of the log; save the state now and then."""
        row = simulation.thermo
        new = not self.log.exists()
        with self.log.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(row)
            writer.writerow(_cell(value) for value in row.values())
        self._append(frame_of(simulation))
        self.frames += 1
        if time.monotonic() - self._saved_at > SAVE_EVERY:
            self.save(simulation)

    def save(self, simulation: Simulation) -> None:
        buffer = io.BytesIO()
        lengths = {
            "frames": np.array(self.frames),
            "log_length": np.array(self.log.stat().st_size),
            "trajectory_length": np.array(self.trajectory.stat().st_size),
        }
        np.savez(buffer, **simulation.state(), **lengths)
        write_atomically(self.saved, buffer.getvalue())
        self._saved_at = time.monotonic()

    def write(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    def _append(self, frame: Atoms) -> None:
        if self.kind == "xyz":
            write(self.trajectory, frame, format="extxyz", append=True)
        else:
            with Trajectory(self.trajectory, "a" if self.trajectory.exists() else "w") as file:
                file.write(frame)


def frame_of(simulation: Simulation) -> Atoms:
    """The atoms now with energy, forces, stress and grades, no longer tied to the calculator."""
    atoms = simulation.atoms
    frame = atoms.copy()
    results = atoms.calc.results
    known = {name: results[name] for name in ("energy", "forces", "stress") if name in results}
    frame.calc = SinglePointCalculator(frame, **known)
    frame.info["step"] = simulation.step
    if "grades" in results:
        frame.arrays["grades"] = results["grades"].copy()
        frame.info["grade"] = results["grade"]
    return frame


def _cell(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.10g}"
