"""Fine-tuned against scratch: test errors by the number of training frames.

    python -m benchmarks.finetuning [--models …] [--sets …] [--frames …] [--budget SECONDS]

Sets that no pretrained model has seen (pretrained/datasets.py, HELD_OUT). Both runs have the same
frames, basis, stages, batch size (clamped to the frames) and number of steps; they differ in where
they start. Plan "lists": the lists of LightPFP's example, word for word. Plan "none": no list, so
that each start takes its own default plan. Finished entries stay in results/finetuning.json and are
skipped the next time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.accuracy import errors, finished, same
from benchmarks.common import ROOT, arguments, record, say, stamp
from benchmarks.datasets import SETS, part
from mtp.data import read, write
from pretrained.registry import card

SOLIDS, ORGANIC = ("Si", "LiTi2O4", "NbMoTaW"), ("ethanol", "acac 300 K", "liquid water", "EC/EMC")
MODELS = {
    "ALL_ELEMENTS_SMALL_NN_6": SOLIDS,
    "ORGANIC_SMALL_NN_6": ORGANIC,
    "ALL_ELEMENTS_LARGE_6": SOLIDS,
    "ALL_ELEMENTS_SMALL_6": SOLIDS,
    "ORGANIC_SMALL_6": ORGANIC,
}
"""What is fine-tuned, and the sets on which."""
FRAMES = (10, 30, 100, 300, 0)  # 0: all
TEST_FRAMES = 60
LISTS = json.loads((ROOT / "configs" / "light_pfp_example.json").read_text())["multistage_config"]
PLANS = {"lists": {"multistage_config": LISTS}, "none": {}}


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0],
        models={"nargs": "+", "default": list(MODELS)},
        sets={"nargs": "+", "choices": [*SOLIDS, *ORGANIC], "default": [*SOLIDS, *ORGANIC]},
        frames={"nargs": "+", "type": int, "default": list(FRAMES), "help": "0: all"},
        plans={"nargs": "+", "choices": list(PLANS), "default": list(PLANS)},
        most={"type": int, "default": 600, "help": "frames that 'all' means at most"},
        budget={"type": float, "help": "start nothing new after so many seconds"},
        data={"type": Path, "default": ROOT.parent / "shared" / "data"},
        again={"action": "store_true", "help": "train finished entries anew"},
    )
    results = [] if options.again else finished("finetuning", options.quick)
    begun = time.monotonic()
    for entry in entries(options):
        if any(same(entry, row) for row in results):
            continue
        if options.budget is not None and time.monotonic() - begun > options.budget:
            say("the budget is spent; the same command goes on from here")
            break
        row = one_run(entry, options)
        if row is not None:
            results.append(row)
            record("finetuning", results, options.quick, comparison=compare(results))


def entries(options: Any) -> list[dict[str, Any]]:
    """What is asked for: few frames first."""
    return [
        {"model": model, "set": name, "frames": frames, "plan": plan, "start": start}
        for frames in (options.frames[:1] if options.quick else options.frames)
        for model in (options.models[:1] if options.quick else options.models)
        for name in (options.sets[:1] if options.quick else options.sets)
        if name in MODELS[model]
        for plan in options.plans
        for start in ("scratch", "pretrained")
    ]


def one_run(entry: dict[str, Any], options: Any) -> dict[str, Any] | None:
    """Train in a process of its own; None where the set has fewer frames."""
    work = ROOT / "runs" / "finetuning" / re.sub(r"\W+", "-", " ".join(map(str, entry.values())))
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    dataset = SETS[entry["set"]]
    train = read(_find(options.data, dataset.train))
    count = min(entry["frames"] or options.most, len(train))
    if entry["frames"] > len(train):
        return None
    write(work / "train.xyz", part(train, count))
    write(work / "test.xyz", part(read(_find(options.data, dataset.tests[0])), TEST_FRAMES))
    (work / "control.json").write_text(json.dumps(control_file(entry, dataset.common), indent=1))
    say(f"{work.name} …")
    begun = time.perf_counter()
    program = Path(sys.executable).with_name("mtp-train")
    done = subprocess.run(
        [str(program), str(work / "control.json"), "--output", str(work / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    row = {**entry, "used": count, "seconds": time.perf_counter() - begun, **stamp()}
    if done.returncode:
        say(done.stderr[-500:])
        return row | {"failed": done.stderr.strip().splitlines()[-1:]}
    metrics = json.loads((work / "run" / "metrics.json").read_text())["default"]
    row |= {"test": errors(metrics["test"]), "valid": errors(metrics["valid"])}
    say(f"   forces {row['test'].get('forces_mae', 0):.1f} meV/Å")
    return row | {"valid_forces_l1": curve(work / "run" / "log.jsonl")}


def control_file(entry: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """A start from the model, or from scratch with the model's basis and readout."""
    basis = card(entry["model"]).basis
    keys = ("levmax", "n_q", "moment_init_cost", "moment_mu_cost", "moment_nu_cost", "nn_dim_list")
    scratch = {"rc": basis["cutoff"]} | {key: basis[key] for key in keys}
    pretrained = {"pretrained_model": entry["model"]}
    return {
        "common_config": dict(common),
        "mtp_config": pretrained if entry["start"] == "pretrained" else scratch,
        "data_config": {"files": ["train.xyz"], "test_files": ["test.xyz"]},
        "run_config": {"threads": 1},
        **PLANS[entry["plan"]],
    }


def curve(log: Path) -> list[float]:
    """Validation MAE of the forces, eV/Å, at every 16th epoch from before the first step on."""
    lines = map(json.loads, log.read_text().splitlines()[::16])
    return [round(line["valid"]["default"]["forces_l1"], 5) for line in lines]


def compare(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fine-tuned over scratch: errors, and the share of epochs to reach scratch's final error."""
    keys = ("model", "set", "frames", "plan")
    done = {(*(row[key] for key in keys), row["start"]): row for row in results if "test" in row}
    found = []
    for (*entry, start), row in done.items():
        scratch = done.get((*entry, "scratch"))
        if start == "scratch" or scratch is None:
            continue
        end = scratch["valid_forces_l1"][-1]
        tuned = row["valid_forces_l1"]
        reached = next((i for i, value in enumerate(tuned) if value <= end), None)
        found.append(
            dict(zip(keys, entry, strict=True))
            | {
                f"{term}_ratio": row["test"][f"{term}_mae"] / scratch["test"][f"{term}_mae"]
                for term in ("energy", "forces", "stress")
                if f"{term}_mae" in scratch["test"]
            }
            | {
                "forces_mae": [row["test"].get("forces_mae"), scratch["test"].get("forces_mae")],
                "epochs_share": None if reached is None else reached / (len(tuned) - 1),
            }
        )
    return found


def _find(folder: Path, pattern: str) -> Path:
    whole = folder / pattern
    return sorted(whole.parent.glob(whole.name))[0]


if __name__ == "__main__":
    main()
