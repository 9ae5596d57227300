"""What extrapolation grades say of errors, beside a committee, and what they cost.

    python -m benchmarks.grade [--quick] [--parts error cost]

error: potentials are trained on silicon (mlearn, DFT) without surfaces and without anything hotter
than 1600 K, and tested on all of that; their largest grade and a committee's deviation are compared
with the true error of the forces. cost: the calculator with and without grades.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read, write
from scipy.stats import spearmanr

from benchmarks.common import ROOT, arguments, per_atom, record, say, side_by_side
from benchmarks.systems import potential_for, thermal_cell
from mtp import CommitteeCalculator, MTPCalculator, Potential
from mtp.grade import MOST, ActiveSet, Grading
from mtp.structure import Structure
from stages.control.reader import read_control
from stages.control.resolve import resolve
from stages.run.train import train

RUNS = ROOT / "runs" / "grade"
MODELS = {
    "level 12, linear": {"levmax": 12, "moment_mu_cost": 4},
    "level 12, NN": {"levmax": 12, "moment_mu_cost": 4, "nn_dim_list": [32, 32]},
    "level 16, linear": {"levmax": 16, "moment_mu_cost": 4},
}
COMMITTEE = 3
HOT = 1600  # K
BINS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, np.inf)


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        data={"type": Path, "default": ROOT.parent / "shared" / "data"},
        parts={"nargs": "+", "choices": ("error", "cost"), "default": ["error", "cost"]},
    )
    results: dict[str, Any] = {}
    path = ROOT / "benchmarks" / "results" / "grade.json"
    if path.exists() and not options.quick:
        results = json.loads(path.read_text())["results"]
    if "cost" in options.parts:
        results["cost"] = costs(options.quick)
        record("grade", results, options.quick)
    if "error" in options.parts:
        results["error"] = {}
        folder = RUNS / ("quick" if options.quick else "full")
        groups = split(options.data / "mlearn" / "Si", folder)
        names = list(MODELS)[:1] if options.quick else list(MODELS)
        for name in names:
            results["error"][name] = errors(name, groups, folder, options.quick)
            record("grade", results, options.quick)


# --- grade against error --------------------------------------------------------------------------


def split(source: Path, folder: Path) -> dict[str, list[Atoms]]:
    """Cool frames to train on (all but 20, "the same kind"), and what was left out, by group."""
    frames = [f for name in ("train", "test") for f in read(source / f"{name}.xyz.gz", ":")]
    groups: dict[str, list[Atoms]] = {}
    for frame in frames:
        found = re.search(r"(\d+) K", frame.info.get("description", ""))
        hot = found and int(found[1]) > HOT
        kind = frame.info["config_type"]
        name = "surfaces" if kind == "Surface" else f"hot {kind}" if hot else "known"
        groups.setdefault(name, []).append(frame)
    known = groups.pop("known")
    order = np.random.default_rng(0).permutation(len(known))
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train.xyz", [known[i] for i in order[20:]])
    return {"the same kind": [known[i] for i in order[:20]], **groups}


def errors(name: str, groups: dict[str, list[Atoms]], folder: Path, quick: bool) -> dict[str, Any]:
    """Grade and deviation against the true error, by atoms and by structures."""
    members = [trained(name, seed, folder, quick) for seed in range(2 if quick else COMMITTEE)]
    single, committee = MTPCalculator(members[0], grade=True), CommitteeCalculator(members)
    atoms: dict[str, list[np.ndarray]] = {"grade": [], "deviation": [], "error": []}
    frames: dict[str, list[float]] = {"grade": [], "deviation": [], "error": []}
    by_group = {}
    for group, members_of in groups.items():
        first = len(frames["error"])
        for frame in members_of[:5] if quick else members_of:
            truth, frame = frame.get_forces(), frame.copy()
            frame.calc = single
            found = {
                "error": np.linalg.norm(frame.get_forces() - truth, axis=1),
                "grade": single.results["grades"],
                "deviation": committee.get_property("deviations", frame),
            }
            for key, values in found.items():
                atoms[key].append(values)
                frames[key].append(float(values.max()))
        part = np.concatenate(atoms["error"][first:])
        by_group[group] = {
            "structures": len(frames["error"]) - first,
            "forces_rmse_eV_per_A": float(np.sqrt((part**2).mean())),
            "median_largest_grade": float(np.median(frames["grade"][first:])),
            "largest_grade": max(frames["grade"][first:]),
        }
    flat = {key: np.concatenate(values) for key, values in atoms.items()}
    say(f"{name}: {by_group}")
    return {
        "groups": by_group,
        "atoms": len(flat["error"]),
        "rank_correlation_with_error": {
            key: {
                "atoms": float(spearmanr(flat[key], flat["error"])[0]),
                "structures": float(spearmanr(frames[key], frames["error"])[0]),
            }
            for key in ("grade", "deviation")
        },
        "forces_rmse_by_grade": binned(flat["grade"], flat["error"]),
        "structures": frames,
    }


def binned(grade: np.ndarray, error: np.ndarray) -> list[dict[str, Any]]:
    """Root mean square error of the atoms between grades."""
    rows = []
    for low, high in pairwise(BINS):
        inside = (grade >= low) & (grade < high)
        if inside.any():
            rms = float(np.sqrt((error[inside] ** 2).mean()))
            rows.append({"from": low, "atoms": int(inside.sum()), "forces_rmse_eV_per_A": rms})
    return rows


def trained(name: str, seed: int, folder: Path, quick: bool) -> Path:
    """A member of the committee: another start and another validation split."""
    slug = re.sub(r"\W+", "_", f"{name} {seed}")
    output, control = folder / slug, folder / f"{slug}.json"
    best = output / "best.mtp.safetensors"
    if (output / "report.html").exists():
        return best
    content = {
        "common_config": {"total_epoch": 10 if quick else 160},
        "mtp_config": {"rc": 5.0, "n_q": 8, **MODELS[name]},
        "data_config": {"files": ["train.xyz"]},
        "run_config": {"seed": seed},
    }
    control.write_text(json.dumps(content))
    train(resolve(read_control(control)), output, restart=(output / "plan.json").exists())
    return best


# --- cost -----------------------------------------------------------------------------------------


def costs(quick: bool) -> list[dict[str, Any]]:
    """Energy, forces and stress of warm silicon with and without grades, one thread."""
    atoms = thermal_cell((3, 3, 3) if quick else (6, 6, 6))
    rows = []
    for size in ("12",) if quick else ("SMALL", "12", "16", "20"):
        potential = graded(size, atoms)
        for dtype in ("float64", "float32"):
            pair = {
                name: MTPCalculator(potential, dtype=dtype, grade=grade)
                for name, grade in (("without", False), ("with", True))
            }
            functions = {name: stepper(atoms.copy(), one) for name, one in pair.items()}
            times = side_by_side(functions, 3 if quick else 15)
            cpu = {name: times[name]["cpus"] for name in times}
            added = np.median(np.array(cpu["with"]) / np.array(cpu["without"])) - 1
            row = {
                "size": size,
                "dtype": dtype,
                "atoms": len(atoms),
                **{name: per_atom(times[name], len(atoms)) for name in times},
                "added": float(added),
            }
            say(f"{size} {dtype}: {100 * added:.1f} % more")
            rows.append(row)
    return rows


def stepper(atoms: Atoms, calculator: MTPCalculator):
    """One step: all atoms move a little, everything is computed."""
    atoms.calc = calculator
    signs = [1.0]

    def step() -> None:
        signs[0] = -signs[0]
        atoms.positions += 1e-4 * signs[0]
        atoms.get_forces()

    return step


def graded(size: str, atoms: Atoms) -> Potential:
    """Coefficients that training starts from, and any active set: it does not change the cost."""
    structure = Structure(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    potential = potential_for(size, [structure])
    n = len(potential.table.scalars)
    inverse = np.zeros((1, n, n))
    inverse[0, :MOST, :MOST] = ActiveSet(min(n, MOST)).inverse
    potential.grading = Grading(np.zeros((1, n)), np.ones((1, n)), inverse, inverse)
    return potential


if __name__ == "__main__":
    main()
