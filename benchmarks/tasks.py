"""What tasks are worth: several levels of theory, tensors beside energies, type embedding, plans.

    python -m benchmarks.tasks [--cases levels water embedding plans] [--budget SECONDS]

Every entry is one run of `mtp-train` in a process of its own with one thread. Cheap labels are made
with GFN2-xTB on the geometries of the expensive set (`mtp label`, extra "pretraining"). Finished
entries stay in results/tasks.json and are skipped the next time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy import children, finished, same
from benchmarks.common import ROOT, arguments, record, say, stamp
from benchmarks.datasets import SETS, files, part
from benchmarks.systems import SIZES
from mtp.data import write
from mtp.data.reading import read

WORK = ROOT / "runs" / "benchmarks" / "tasks"
CHEAP = "tblite:GFN2-xTB"
FRAMES = (10, 30, 100, 300)
FEW, DRAWS = 30, (0, 1, 2)  # so few frames are drawn three times
WIDTHS = [32, 32]
LEVELS = {  # expensive set: training file, test files, cutoff
    "ethanol B3LYP": ("qm22/ethanol_b3lyp/train.xyz.gz", ["qm22/ethanol_b3lyp/test.xyz.gz"], 5.0),
    "water clusters CCSD": (
        "water_clusters_ccsd/train.xyz.gz",
        [
            "water_clusters_ccsd/test_tetramer.xyz",
            "water_clusters_ccsd/test_hexamer_proton_transfer.xyz",
        ],
        5.0,
    ),
}
VARIANTS = (
    *("alone", "two tasks", "fine-tuned"),
    *("alone NN", "two tasks NN", "two tasks NN, shared layers", "fine-tuned NN"),
)
EMBEDDED = ("CuPd", "AlCuNi", "LiTi2O4", "NbMoTaW", "ANI-1x", "universal")


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        cases={"nargs": "+", "choices": list(CASES), "default": list(CASES)},
        budget={"type": float, "help": "start nothing new after so many seconds"},
        data={"type": Path, "default": ROOT.parent / "shared" / "data"},
        again={"action": "store_true", "help": "train finished entries anew"},
    )
    results = [] if options.again else finished("tasks", options.quick)
    begun = time.monotonic()
    for case in options.cases:
        for entry, control in CASES[case](options):
            entry = {"case": case, **entry}
            if any(same(entry, row) for row in results):
                continue
            if options.budget is not None and time.monotonic() - begun > options.budget:
                say("the budget is spent; the same command goes on from here")
                return
            results.append(one_run(entry, control(), options.quick))
            record("tasks", results, options.quick)


# --- cases: entry and what makes its control file -------------------------------------------------


def levels(options: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """A few expensive frames alone, and with the cheap level of theory on all geometries.

    As a second task, or in a model that is trained first and then fine-tuned.
    """
    for variant in VARIANTS[:2] if options.quick else VARIANTS:
        for name, (train, tests, rc) in LEVELS.items():
            for frames in FRAMES[:1] if options.quick else FRAMES:
                again = frames <= FEW and "NN" not in variant and not options.quick
                for draw in DRAWS if again else DRAWS[:1]:
                    yield (
                        {"set": name, "frames": frames, "variant": variant, "draw": draw},
                        lambda a=(options, train, tests, rc, frames, variant, draw): _levels(*a),
                    )


def _levels(
    options: Any,
    train: str,
    tests: list[str],
    rc: float,
    frames: int,
    variant: str,
    draw: int = 0,
) -> dict[str, Any]:
    expensive = subset(options.data / train, frames, draw)
    data = {"files": [expensive], "test_files": [str(options.data / test) for test in tests]}
    widths = WIDTHS if "NN" in variant else []
    control: dict[str, Any] = {"mtp_config": {"rc": rc, "nn_dim_list": widths, **SIZES["SMALL"]}}
    if variant.startswith("alone"):
        return control | {"data_config": data}
    if variant.startswith("fine-tuned"):
        cheap = {"data_config": {"files": [labelled(options.data / train)]}}
        name = f"{Path(train).parent.name} cheap{' NN' * bool(widths)}{' quick' * options.quick}"
        model = trained(name, control | cheap, options.quick)
        return {"common_config": {"reload_model": model}, "data_config": data}
    tasks = {
        "expensive": {"data": data},
        "cheap": {"data": {"files": [labelled(options.data / train)]}},
    }
    if "shared" in variant:
        for task in tasks.values():
            task["layer_name"] = ["first", "second", None]
    return control | {"tasks": tasks}


def water(options: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Energies, dipoles and polarizabilities in one model, and each in a model of its own.

    In one model also with the plan of configs/multitask/liquid_water.json.
    """
    dimer = {
        "files": [str(options.data / "tensor_molecules/water_dimer_ccsd/train.xyz.gz")],
        "test_files": [str(options.data / "tensor_molecules/water_dimer_ccsd/test.xyz.gz")],
    }
    tensors = {
        "files": [str(options.data / "water_liquid_tensors/train.xyz.gz")],
        "test_files": [str(options.data / "water_liquid_tensors/test.xyz.gz")],
    }
    train, tests = files(options.data, SETS["liquid water"], prepared("liquid"), options.quick)
    energy = {"files": [str(train)], "test_files": [str(test) for test in tests]}
    types = {"energy": "ener", "dipole": "dipole", "polarizability": "polar"}
    sets = {
        "water dimer": {head: dimer for head in types},
        "liquid water": {"energy": energy, "dipole": tensors, "polarizability": tensors},
    }
    for name, data in sets.items():
        for heads, plan in (
            (tuple(types), "default"),
            (tuple(types), "energies first"),
            *(((head,), "default") for head in types),
        ):
            tasks = {
                head: {"type": types[head], "data": data[head]}
                | ({} if head == "energy" else {"level": 10, "readout": {"neuron": [16]}})
                for head in heads
            }
            control = {"mtp_config": {"rc": 6.0, **SIZES["SMALL"]}, "tasks": tasks}
            if plan == "energies first":
                control |= ENERGIES_FIRST
            yield {"set": name, "heads": list(heads), "plan": plan}, lambda c=control: c


def embedding(options: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """The table of radial coefficients against the type embedding on sets of several elements."""
    for name in EMBEDDED[:1] if options.quick else EMBEDDED:
        for neuron in (None, [4], [8]):
            yield (
                {"set": name, "embedding": neuron},
                lambda a=(options, name, neuron): _embedding(*a),
            )


def _embedding(options: Any, name: str, neuron: list[int] | None) -> dict[str, Any]:
    dataset = SETS[name]
    train, tests = files(options.data, dataset, prepared(name), options.quick)
    data = {"files": [str(train)], "test_files": [str(test) for test in tests]}
    task: dict[str, Any] = {"default": {"data": data}}
    if neuron is not None:
        task["type_embedding"] = {"neuron": neuron}
    return {
        "common_config": dict(dataset.common),
        "mtp_config": {"rc": dataset.rc, **SIZES["SMALL"]},
        "tasks": task,
    }


def plans(options: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Stages that differ by task against one flat plan with the same number of steps."""
    train, tests, rc = LEVELS["ethanol B3LYP"]
    for frames in FRAMES[1:2] if options.quick else FRAMES[1:3]:
        for plan in PLANS:
            yield (
                {"set": "ethanol B3LYP", "frames": frames, "plan": plan},
                lambda a=(options, train, tests, rc, frames, plan): (
                    _levels(*a[:-1], "two tasks") | PLANS[a[-1]]
                ),
            )


def lists(*stages: tuple[int, tuple[float, float, float]], calibration: int = 0) -> dict[str, Any]:
    """Stage lists of L-BFGS stages: epochs and coefficients."""
    names = ("energy", "forces", "stress")
    return {
        "lr_list": [0.1] * len(stages),
        "epoch_list": [epochs for epochs, _ in stages],
        "loss_func_list": ["mse"] * len(stages),
        "use_calib_stage": calibration > 0,
    } | {
        f"{name}_loss_coeff_list": [weights[i] for _, weights in stages]
        for i, name in enumerate(names)
    } | ({"calibration_epoch": calibration} if calibration else {})  # fmt: skip


ENERGIES_FIRST = {
    part: json.loads((ROOT / "configs" / "multitask" / "liquid_water.json").read_text())[part]
    for part in ("multistage_config", "stage_options")
}
FORCES, BOTH = (1.0, 1.0, 1.0), (100.0, 1.0, 100.0)
EVEN = {"expensive": 1.0, "cheap": 1.0}
PLANS: dict[str, dict[str, Any]] = {
    "flat": {
        "multistage_config": lists((320, BOTH)),
        "stage_options": {"optimizer": ["lbfgs"]},
    },
    "flat, even weights": {
        "multistage_config": lists((320, BOTH)),
        "stage_options": {"optimizer": ["lbfgs"], "task_weight": [EVEN]},
    },
    "default": {},
    "default, even weights": {"stage_options": {"task_weight": [EVEN, EVEN]}},
    "cheap first, then both": {
        "multistage_config": lists((160, BOTH), (160, BOTH)),
        "stage_options": {"optimizer": ["lbfgs"] * 2, "task_weight": [{"cheap": 1.0}, EVEN]},
    },
    "cheap first, then the expensive readout": {
        "multistage_config": lists((240, BOTH), (80, BOTH)),
        "stage_options": {
            "optimizer": ["lbfgs"] * 2,
            "task_weight": [{"cheap": 1.0}, {"expensive": 1.0}],
            "trainable": [None, ["readout", "shifts"]],
        },
    },
    "both, then the expensive one": {
        "multistage_config": lists((240, BOTH), (80, BOTH)),
        "stage_options": {
            "optimizer": ["lbfgs"] * 2,
            "task_weight": [EVEN, {"expensive": 1.0}],
            "trainable": [None, ["readout", "shifts"]],
        },
    },
}

CASES = {"levels": levels, "water": water, "embedding": embedding, "plans": plans}


# --- data and runs --------------------------------------------------------------------------------


def prepared(name: str) -> Path:
    folder = WORK / "data" / re.sub(r"\W+", "-", name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def subset(path: Path, count: int, draw: int) -> str:
    """A file with so many frames of another, drawn with a seed."""
    out = prepared(f"{path.parent.name} {count} {draw}") / "train.xyz"
    write(out, part(read(path), count, draw))
    return str(out)


def labelled(path: Path) -> str:
    """The geometries of a file with labels of the cheap level."""
    out = prepared(f"{path.parent.name} cheap") / "train.xyz"
    if not out.exists():
        command = [str(Path(sys.executable).with_name("mtp")), "label", CHEAP, str(path), str(out)]
        subprocess.run(command, check=True)
    return str(out)


def trained(name: str, control: dict[str, Any], quick: bool) -> str:
    """The model of a run that others start from, trained where it is missing."""
    work = WORK / re.sub(r"\W+", "-", name)
    model = work / "run" / "best.mtp.safetensors"
    if not (work / "run" / "metrics.json").exists():
        done = run_training(work, control, quick)
        done.check_returncode()
    return str(model)


def one_run(entry: dict[str, Any], control: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Train and collect test errors of every head."""
    words = [str(value) for value in entry.values()] + ["quick"] * quick
    work = WORK / re.sub(r"\W+", "-", " ".join(words)).strip("-")
    cpu = children()
    done = run_training(work, control, quick)
    row = {**entry, "cpu_seconds": children() - cpu, **stamp()}
    if done.returncode:
        say(done.stderr[-800:])
        return row | {"failed": done.stderr.strip().splitlines()[-1:]}
    metrics = json.loads((work / "run" / "metrics.json").read_text())
    row["heads_errors"] = {head: sets.get("test", sets["valid"]) for head, sets in metrics.items()}
    row["parameters"] = parameters(work / "run" / "best.mtp.safetensors")
    for head, values in row["heads_errors"].items():
        say(f"   {head}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items() if "_mae_" in k))
    return row


def run_training(
    work: Path, control: dict[str, Any], quick: bool
) -> subprocess.CompletedProcess[str]:
    """mtp-train in a folder of its own, with one thread."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if quick:
        control.setdefault("common_config", {})["total_epoch"] = 8
    control |= {"run_config": {"threads": 1}}
    (work / "control.json").write_text(json.dumps(control, indent=1))
    say(f"{work.name} …")
    command = ["mtp-train", str(work / "control.json"), "--output", str(work / "run")]
    return subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def parameters(model: Path) -> int:
    from mtp.model_file import load_model

    return sum(p.numel() for p in load_model(model).parameters())


if __name__ == "__main__":
    main()
