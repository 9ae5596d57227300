"""Labels that active learning needs, by grade and at random, for the same error.

    python -m benchmarks.active_learning [--quick] [--seeds 0 1] [--cases silicon …]

A student learns a classical potential (the teacher) from nothing but a crystal that is heated until
it melts. The hold-out is dynamics of the teacher itself, from 300 K to the melt; it is the same for
all. Runs go on where they were stopped (`mtp learn` in runs/active_learning).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import write
from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.common import ROOT, arguments, record, say
from mtp.md import Settings, Simulation
from mtp.teachers import describe, teacher
from pretrained.labelling import label
from stages.learn.loop import learn
from stages.learn.setting import Setting
from stages.report.learning import (
    FORCES,
    correlation,
    labels_by_round,
    read_rounds,
    write_learning,
)
from stages.report.lines import MODEL, OTHER
from stages.report.plots import STYLE, log_axis

RUNS = ROOT / "runs" / "active_learning"
SELECTIONS = ("grade", "random")


def silicon() -> Atoms:
    return bulk("Si", cubic=True) * 2


def copper_gold() -> Atoms:
    atoms = bulk("Cu", cubic=True, a=3.85) * (3, 2, 2)
    atoms.symbols[np.random.default_rng(0).permutation(len(atoms))[: len(atoms) // 2]] = "Au"
    return atoms


CASES: dict[str, dict[str, Any]] = {
    "silicon": {
        "teacher": "lammps:pair_style sw; pair_coeff * * Si.sw Si",
        "crystal": silicon,
        "temperatures": [300.0, 1200.0, 2400.0, 3600.0],
        "hottest": 3600.0,
    },
    "copper-gold": {
        "teacher": "emt",
        "crystal": copper_gold,
        "temperatures": [300.0, 1000.0, 2000.0],
        "hottest": 2000.0,
    },
}


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        seeds={"nargs": "+", "type": int, "default": [0, 1]},
        cases={"nargs": "+", "choices": list(CASES), "default": list(CASES)},
    )
    results = []
    for name in options.cases:
        for seed in options.seeds[:1] if options.quick else options.seeds:
            pair = [one_run(name, how, seed, options.quick) for how in SELECTIONS]
            results += pair
            record("active_learning", {"runs": results, "summary": summary(results)}, options.quick)
    if not options.quick:
        plot(results, ROOT / "docs" / "active_learning.svg")


def one_run(name: str, selection: str, seed: int, quick: bool) -> dict[str, Any]:
    """One active learning; what its rounds say."""
    case, folder = CASES[name], RUNS / ("quick" if quick else "full") / name
    folder.mkdir(parents=True, exist_ok=True)
    hold_out(name, folder, quick)
    control = folder / f"{selection}_{seed}.json"
    control.write_text(json.dumps(control_of(case, selection, seed, quick), indent=1))
    output = folder / f"{selection}_{seed}"
    say(f"{name}, by {selection}, seed {seed}")
    learn(Setting.read(control), output, "cpu")
    write_learning(output)
    rounds = read_rounds(output)
    return {
        "case": name,
        "teacher": describe(case["teacher"]),
        "selection": selection,
        "seed": seed,
        "labels": labels_by_round(rounds),
        **{
            key: [one["train"]["test"][key] for one in rounds]
            for key in (FORCES, "energy_rmse_meV_per_atom", "stress_rmse_GPa")
        },
        "broken_dynamics": [
            sum(j["ended"] != "done" for j in one.get("journeys", ())) for one in rounds
        ],
        "rank_correlation_of_grade_and_force_error": correlation(rounds),
    }


def hold_out(name: str, folder: Path, quick: bool) -> None:
    """Dynamics of the teacher at zero pressure, heated to the melt."""
    if (folder / "hold_out.xyz").exists():
        return
    case = CASES[name]
    atoms = case["crystal"]()
    write(folder / "crystal.xyz", atoms)
    atoms.calc = teacher(case["teacher"])
    frames: list[Atoms] = []
    steps = 200 if quick else 6000
    settings = Settings(
        "npt", 300.0, case["hottest"], timestep=2.0, steps=steps, every=steps // 40, seed=99
    )
    Simulation(atoms, settings).run(lambda now: frames.append(now.atoms.copy()))
    for frame in frames:
        frame.arrays.pop("momenta")
    write(folder / "hold_out_unlabelled.xyz", frames[1:])
    label(case["teacher"], folder / "hold_out_unlabelled.xyz", folder / "hold_out.xyz")


def control_of(case: dict[str, Any], selection: str, seed: int, quick: bool) -> dict[str, Any]:
    """The control file of a run."""
    return {
        "common_config": {"total_epoch": 20 if quick else 160},
        "mtp_config": {"rc": 5.0, "levmax": 8, "moment_mu_cost": 1},
        "data_config": {"test_files": ["hold_out.xyz"]},
        "run_config": {"seed": seed},
        "learn": {
            "teacher": case["teacher"],
            "start": ["crystal.xyz"],
            "selection": selection,
            "initial_samples": 6,
            "rounds": 2 if quick else 6,
            "temperatures": case["temperatures"][-2:] if quick else case["temperatures"],
            "pressure": 0.0,
            "steps": 100 if quick else 1500,
            "timestep": 2.0,
            "interval": 10,
            "max_samples": 6,
            "grade_select": 1.5,
        },
    }


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each case and seed: labels by grade for the error that random labels end with."""
    found = []
    for one in results:
        if one["selection"] != "random":
            continue
        twin = next(
            r for r in results
            if (r["case"], r["seed"], r["selection"]) == (one["case"], one["seed"], "grade")
        )  # fmt: skip
        error = min(one[FORCES])
        found.append(
            {
                "case": one["case"],
                "seed": one["seed"],
                FORCES: error,
                "labels_at_random": labels_for(one, error),
                "labels_by_grade": labels_for(twin, error),
                "least_error_by_grade": min(twin[FORCES]),
            }
        )
    return found


def labels_for(run: dict[str, Any], error: float) -> float | None:
    """Labels at which the error first falls below a value, between rounds by logarithms."""
    labels, errors = run["labels"], run[FORCES]
    for k, value in enumerate(errors):
        if value > error:
            continue
        if k == 0:
            return float(labels[0])
        x, y = np.log([labels[k - 1], labels[k]]), np.log([errors[k - 1], value])
        return float(np.exp(np.interp(-np.log(error), -y, x)))
    return None


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Errors over labels: a panel for each case, lines for selections and seeds."""
    cases = list(dict.fromkeys(one["case"] for one in results))
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(cases), 3.0), layout="constrained")
        for axes, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
            for one in (r for r in results if r["case"] == case):
                by_grade = one["selection"] == "grade"
                label = ("by grade" if by_grade else "at random") if one["seed"] == 0 else None
                colour, dash = (MODEL, "-") if by_grade else (OTHER, "--")
                axes.plot(one["labels"], one[FORCES], dash, marker="o", ms=3, c=colour, label=label)
            log_axis(axes.yaxis)
            axes.set_title(f"{case}: {one['teacher'].split(' (')[0].split(';')[0]}", fontsize=9)
            axes.set_xlabel("labelled structures")
            axes.set_ylabel("force RMSE of the hold-out (meV/Å)")
            axes.legend()
        figure.savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
