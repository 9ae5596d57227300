"""Test errors of the default plan on every data set that has a test set.

    python -m benchmarks.accuracy [--sets Si Cu …] [--sizes SMALL 12 16] [--budget SECONDS]

Each entry is one run of the public command, `mtp-train`, in a process of its own with one thread:
three sizes, linear and neural readout, nothing else changed but the cutoff. Finished entries stay
in results/accuracy.json and are skipped the next time (--again trains them anew), so the work can
be spread over several calls. --curve trains silicon with shares and multiples of the usual epochs,
by the default plan, and by one stage with the coefficients of its second one; --seeds trains it
with six seeds, each of which draws another split and another start.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, arguments, record, say, stamp
from benchmarks.datasets import SETS, DataSet, files
from benchmarks.systems import SIZES

READOUTS = {"linear": [], "NN": [32, 32]}
USUAL = ("SMALL", "12", "16")
TERMS = {"energy": "meV_per_atom", "forces": "meV_per_A", "stress": "GPa"}
MILLI, GPA = 1e3, 160.21766208


def lists(
    epochs: list[int],
    coefficients: list[tuple[float, float, float]],
    optimizers: list[str],
    calibration: int,
) -> dict[str, Any]:
    """Control-file sections of a plan; coefficients: energy, forces, stress of each stage."""
    n = len(epochs)
    energy, forces, stress = (list(column) for column in zip(*coefficients, strict=True))
    return {
        "multistage_config": {
            "lr_list": [0.1, 0.01][:n],
            "epoch_list": epochs,
            "energy_loss_coeff_list": energy,
            "forces_loss_coeff_list": forces,
            "stress_loss_coeff_list": stress,
            "loss_func_list": ["mse"] * n,
            "use_calib_stage": calibration > 0,
            **({"calibration_epoch": calibration} if calibration else {}),
        },
        "stage_options": {"optimizer": optimizers},
    }


ONE_STAGE = lists([320], [(100.0, 1.0, 100.0)], ["lbfgs"], 0)
PLANS: dict[str, dict[str, Any]] = {"default": {}, "one stage": ONE_STAGE}
CURVE = {"default": (20, 40, 80, 160, 320), "one stage": (6, 12, 24, 48, 96)}
"""Plan → epochs."""
SEEDS = {"one stage": 24}
"""Plan → epochs of every seed."""


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        sets={"nargs": "+", "choices": list(SETS), "metavar": "SET", "help": ", ".join(SETS)},
        sizes={"nargs": "+", "choices": list(SIZES), "default": list(USUAL)},
        readouts={"nargs": "+", "choices": list(READOUTS), "default": list(READOUTS)},
        budget={"type": float, "help": "start nothing new after so many seconds"},
        data={"type": Path, "default": ROOT.parent / "shared" / "data"},
        curve={"action": "store_true", "help": "errors against time on silicon instead"},
        seeds={"action": "store_true", "help": "errors on silicon with several seeds instead"},
        again={"action": "store_true", "help": "train finished entries anew"},
    )
    name = "silicon_curve" if options.curve else "silicon_seeds" if options.seeds else "accuracy"
    results = [] if options.again else finished(name, options.quick)
    begun = time.monotonic()
    for entry in entries(options):
        if any(same(entry, row) for row in results):
            continue
        if options.budget is not None and time.monotonic() - begun > options.budget:
            say("the budget is spent; the same command goes on from here")
            break
        results.append(one_run(entry, options, PLANS.get(entry.get("plan"))))
        record(name, results, options.quick)


def entries(options: Any) -> list[dict[str, Any]]:
    """What is asked for: small models of all sets first."""
    if options.curve:
        sizes = options.sizes[:1] if options.quick else ("12", "16")
        return [
            {"set": "Si", "size": size, "readout": "linear", "plan": plan, "total_epoch": epochs}
            for size in sizes
            for plan, several in CURVE.items()
            for epochs in (several[:2] if options.quick else several)
        ]
    if options.seeds:
        return [
            {"set": "Si", "size": size, "readout": "linear", "plan": plan, "total_epoch": epochs}
            | {"seed": seed}
            for size in ("12", "16")
            for plan, epochs in SEEDS.items()
            for seed in range(2 if options.quick else 6)
        ]
    sets = options.sets or (["Si", "CuPd"] if options.quick else list(SETS))
    sizes = options.sizes[:1] if options.quick else options.sizes
    return [
        {"set": name, "size": size, "readout": readout, "total_epoch": 8 if options.quick else None}
        for size in sizes
        for readout in options.readouts
        for name in sets
    ]


KEYS = {"seed", "frames"}
"""What an entry may leave out."""


def finished(name: str, quick: bool) -> list[dict[str, Any]]:
    """Results of earlier calls; what failed is tried again."""
    path = (RESULTS / "quick" if quick else RESULTS) / f"{name}.json"
    results = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
    return [row for row in results if "failed" not in row]


def same(entry: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a result is that of an entry."""
    return all(row.get(key) == entry.get(key) for key in KEYS | entry.keys())


def one_run(
    entry: dict[str, Any], options: Any, sections: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train in a process of its own and collect what its run directory says.

    sections: further sections of the control file.
    """
    dataset = SETS[entry["set"]]
    if entry.get("frames"):
        dataset = replace(dataset, frames=entry["frames"])
    words = [*(str(value) for value in entry.values() if value), "quick"[: 5 * options.quick]]
    work = ROOT / "runs" / "benchmarks" / re.sub(r"\W+", "-", " ".join(words)).strip("-")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    train, tests = files(options.data, dataset, work, options.quick)
    control = control_file(entry, dataset, train, tests) | (sections or {})
    (work / "control.json").write_text(json.dumps(control, indent=1, default=str))
    say(f"{work.name} …")
    command = ["mtp-train", str(work / "control.json"), "--output", str(work / "run")]
    wall, cpu = time.perf_counter(), children()
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    row: dict[str, Any] = {
        **entry,
        "rc": dataset.rc,
        "note": dataset.note,
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": children() - cpu,
        **stamp(),
    }
    if done.returncode:
        say(done.stderr[-500:])
        return row | {"failed": done.stderr.strip().splitlines()[-1:]}
    row |= outcome(work / "run", tests)
    say("   " + summary(row))
    return row


def control_file(
    entry: dict[str, Any], dataset: DataSet, train: Path, tests: list[Path]
) -> dict[str, Any]:
    """The default plan; only size, readout, cutoff and files are said."""
    common = dict(dataset.common)
    if entry.get("total_epoch") is not None:
        common["total_epoch"] = entry["total_epoch"]
    readout = READOUTS[entry["readout"]]
    return {
        "common_config": common,
        "mtp_config": {"rc": dataset.rc, "nn_dim_list": readout, **SIZES[entry["size"]]},
        "data_config": {"files": [train], "test_files": tests},
        "run_config": {"threads": 1, "seed": entry.get("seed", 0)},
    }


def outcome(run: Path, tests: list[Path]) -> dict[str, Any]:
    """Errors, and what every stage contributed, from a run directory."""
    metrics = json.loads((run / "metrics.json").read_text())["default"]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = {
        "train_frames": metrics["train"]["frames"] + metrics["valid"]["frames"],
        "training_seconds": sum(line["seconds"] for line in log),
        "epochs": sum(line["epoch"] > 0 for line in log),
        **{name: errors(metrics[name]) for name in ("train", "valid", "test")},
        "stages": stages(log),
    }
    if len(tests) > 1:
        found["tests"] = by_file(run / "best.mtp.safetensors", tests)
    return found


def errors(metrics: dict[str, float]) -> dict[str, float]:
    """MAE and RMSE of what is labelled: meV/atom, meV/Å, GPa."""
    return {"frames": metrics["frames"]} | {
        f"{term}_{kind}": metrics[f"{term}_{kind}_{unit}"]
        for term, unit in TERMS.items()
        for kind in ("mae", "rmse")
        if f"{term}_{kind}_{unit}" in metrics
    }


def by_file(model: Path, tests: list[Path]) -> dict[str, Any]:
    """Errors of each test file."""
    command = [str(Path(sys.executable).with_name("mtp")), "eval", str(model), *map(str, tests)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    return {Path(p).name: errors(m) for p, m in json.loads(done.stdout)["default"].items()}


def stages(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Validation MAEs before and after each stage, and its seconds."""
    found, before = [], mae(log[0])
    for number in sorted({line["stage"] for line in log}):
        lines = [line for line in log if line["stage"] == number]
        found.append(
            {
                "name": lines[-1]["name"],
                "epochs": lines[-1]["epoch"],
                "seconds": sum(line["seconds"] for line in lines),
                "coefficients": lines[-1]["coeff"],
                "before": before,
                "after": mae(lines[-1]),
            }
        )
        before = found[-1]["after"]
    return found


def mae(line: dict[str, Any]) -> dict[str, float]:
    """Mean absolute validation errors of a line of the log: meV/atom, meV/Å, GPa."""
    units = {"energy": MILLI, "forces": MILLI, "stress": GPA}
    valid = next(iter(line["valid"].values()))
    return {t: u * valid[f"{t}_l1"] for t, u in units.items() if f"{t}_l1" in valid}


def summary(row: dict[str, Any]) -> str:
    """One line of what came out."""
    units = {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa"}
    test = row["test"]
    parts = [f"{test[f'{t}_mae']:.3g} {u}" for t, u in units.items() if f"{t}_mae" in test]
    return f"{', '.join(parts)}; {row['training_seconds']:.1f} s of {row['wall_seconds']:.1f} s"


def children() -> float:
    """CPU seconds of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
