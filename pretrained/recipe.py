"""The recipe of the pretrained models: corpus, labels, training, file and card.

    python -m pretrained.recipe FOLDER [--data SETS] [--models NAME …] [--workers N] [--quick]

FOLDER keeps everything, and the same command goes on after a kill: the corpus and the DFT sets
(FOLDER/corpus), one run for each model (FOLDER/NAME) and the finished models with their cards
(FOLDER/models, a folder that MTP_MODELS can name). --quick goes through all of it with a corpus and
stages a hundredth as large.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import mtp.data
from mtp.atomic_file import write_atomically
from mtp.data.scan import largest_force
from mtp.model_file import load_model, save_model
from mtp.potential import HeadSpec, Potential, PotentialSpec
from pretrained import registry
from pretrained.corpus import ALL, CORPUS, LEVELS, ORGANIC, build
from pretrained.datasets import SETS, prepare
from pretrained.pair_network import first_descriptor

DFT = {one.task: one for one in SETS}
CONTROLS = Path(__file__).parents[1] / "configs" / "pretraining"
LICENCE = "MIT (the weights); data: see each task"
OWN = (
    "Weights of this project, trained by pretrained/recipe.py. The name follows LightPFP's scheme; "
    "nothing of LightPFP's models or data is in it. "
)
SUMMARY = {
    ALL: "Starting point for any material of H … Rn. Not meant to be used without fine-tuning.",
    ORGANIC: "Starting point for molecules and liquids of H C N O F Si P S Cl Br I. Not "
    "meant to be used without fine-tuning.",
}
FALLBACK = {
    ALL: "none: every pair of elements is in xTB dimers. Po, At and Rn are in no DFT set: only "
    "in xTB dimers and clusters.",
    ORGANIC: "none: every pair of the eleven elements is in xTB dimers.",
}
SMALL = PotentialSpec(ALL, 6.0, 0.6, 8, 8, moment_mu_cost=1)
MODELS = {
    "ALL_ELEMENTS_SMALL_6": SMALL,
    "ALL_ELEMENTS_SMALL_NN_6": SMALL,
    "ALL_ELEMENTS_LARGE_6": replace(SMALL, levmax=16, moment_mu_cost=4),
    "ORGANIC_SMALL_6": replace(SMALL, species=ORGANIC),
    "ORGANIC_SMALL_NN_6": replace(SMALL, species=ORGANIC),
}
"""Their species, distances and basis; heads, data and stages are those of the control file."""
FIRST_STEPS = 20000
STEP = 0.15
"""How much smaller the first steps of a fine-tuning run are than those of a run from scratch."""


def main(arguments: list[str] | None = None) -> None:
    """The whole recipe, or what of it is missing in FOLDER."""
    options = _options(arguments)
    names = options.models or MODELS
    for name in names:
        control = json.loads((CONTROLS / f"{name.lower()}.json").read_text())
        collect(control, options)
        start(name, control, options)
        run = train(name, control, options)
        finish(name, control, run, options.folder / "models")


def collect(control: dict[str, Any], options: argparse.Namespace) -> None:
    """The files that the control file names, each made where it is missing."""
    folder = options.folder / "corpus"
    parts = {part.name: part for part in CORPUS}
    for name in _files(control):
        if name in parts:
            done = build(parts[name], folder, 0.01 if options.quick else 1.0, options.workers)
            if done:
                print(f"{name}: {done.written} of {done.structures} structures", flush=True)
        else:
            prepare(DFT[name], options.data, folder, ALL)


def start(name: str, control: dict[str, Any], options: argparse.Namespace) -> None:
    """The potential that the control file reloads, FOLDER/NAME/start.mtp.safetensors.

    Its descriptor comes from a network over pairs of elements, trained on all tasks.
    """
    file = options.folder / name / "start.mtp.safetensors"
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    tasks = control["tasks"]
    hidden = {task: tuple(one.get("readout", {}).get("neuron", ())) for task, one in tasks.items()}
    spec = replace(MODELS[name], heads=tuple(HeadSpec(task, hidden=hidden[task]) for task in tasks))
    limit = control["common_config"]["max_forces"]
    frames = {
        task: [
            frame
            for path in one["data"]["files"]
            for frame in mtp.data.read(file.parent / path)
            if frame.forces is None or largest_force(frame) <= limit
        ]
        for task, one in tasks.items()
    }
    (weights,) = control["stage_options"]["task_weight"]
    steps = FIRST_STEPS // (100 if options.quick else 1)
    save_model(file, first_descriptor(frames, weights, spec, steps))


def train(name: str, control: dict[str, Any], options: argparse.Namespace) -> Path:
    """Train with the command mtp-train; a started run goes on."""
    folder = options.folder / name
    run = folder / "run"
    if (run / "metrics.json").exists():
        return run
    folder.mkdir(parents=True, exist_ok=True)
    if options.quick:
        lists = control["multistage_config"]
        lists["epoch_list"] = [max(1, epochs // 100) for epochs in lists["epoch_list"]]
    write_atomically(folder / "control.json", json.dumps(control, indent=2).encode())
    command = [sys.executable, "-m", "stages.cli", "train", str(folder / "control.json")]
    command += ["--output", str(run), *(["--restart"] if run.exists() else [])]
    subprocess.run(command, check=True)
    return run


def finish(name: str, control: dict[str, Any], run: Path, models: Path) -> registry.Card:
    """The model's file and card from a finished run."""
    models.mkdir(parents=True, exist_ok=True)
    file = models / f"{name}{registry.SUFFIX}"
    potential = load_model(run / "best.mtp.safetensors")
    potential.grading = None  # of the corpus: of no use to who trains on, and most of the file
    smaller_steps(potential, STEP)
    save_model(file, potential.cast(torch.float32), {"recipe": name})
    species = ALL if name.startswith("ALL") else ORGANIC
    tasks = list(control["tasks"])
    card = replace(
        registry.from_file(file),
        summary=OWN + SUMMARY[species],
        heads={task: LEVELS.get(task) or DFT[task].level for task in tasks},
        default_head=tasks[0],
        data={task: _data(task, control["tasks"][task]) for task in tasks},
        licence=LICENCE,
        fallback=FALLBACK[species],
        errors={"validation": _validation(run)},
        plan=f"configs/pretraining/{name.lower()}.json",
    )
    registry.write_card(card)
    return card


def _data(task: str, section: dict[str, Any]) -> str:
    """Where a task's data come from."""
    if task in DFT:
        return f"{DFT[task].source}; {DFT[task].licence}"
    names = [Path(file).name.removesuffix(".xyz.gz") for file in section["data"]["files"]]
    return f"sampled and labelled by pretrained/corpus.py: {', '.join(names)}"


def _validation(run: Path) -> dict[str, Any]:
    """Errors on each task's validation frames."""
    metrics = json.loads((run / "metrics.json").read_text())
    return {task: sets["valid"] for task, sets in metrics.items()}


def smaller_steps(potential: Potential, factor: float) -> None:
    """The same potential, in which an optimiser's step changes coefficients by this factor.

    Coefficients are parameters times scales that the file carries: learning rates that suit random
    numbers would throw a trained model out of its minimum.
    """
    with torch.no_grad():
        potential.radial_scale.mul_(factor)
        potential.radial.div_(factor)
        for head in potential.heads.values():
            head.step.mul_(factor)
            for name, parameter in head.named_parameters():
                if name != "shifts":
                    parameter.div_(factor)


def _files(control: dict[str, Any]) -> list[str]:
    """Names of the files of all tasks, without folder and suffix."""
    found = [name for task in control["tasks"].values() for name in task["data"]["files"]]
    return [Path(name).name.removesuffix(".xyz.gz") for name in dict.fromkeys(found)]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pretrained.recipe", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=CONTROLS.parents[2] / "shared" / "data")
    parser.add_argument("--models", nargs="+", metavar="NAME")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
