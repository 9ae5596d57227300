"""Active learning: train, explore with the student, pick, have labelled, add, and again.

OUTPUT/round_KK holds a round: `run` (the training), `md` (the dynamics), picked.xyz (to label),
labelled.xyz (by the teacher or by the user), added.xyz and round.json. Whatever is there already is
not done again, so a killed loop goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mtp.atomic_file import write_atomically
from mtp.data import read, write
from mtp.data.scan import min_distance
from mtp.errors import InvalidInput
from mtp.model_file import load_model
from mtp.structure import Structure
from pretrained.labelling import label
from stages.learn.begin import first_structures
from stages.learn.explore import Journey, explore
from stages.learn.pick import Judged, accept, judge, pick
from stages.learn.setting import Setting
from stages.plan import DataFile
from stages.run.train import train
from stages.say import say

RUN, BEST = "run", "best.mtp.safetensors"
SETTING, RECORD = "learn.json", "round.json"


def learn(setting: Setting, output: Path, device: str = "auto") -> Path | None:
    """All rounds; returns the last model, or None where labels of the user are awaited.

    Raises InvalidInput for a directory of another control file, and what training raises.
    """
    _claim(setting, output)
    setting = _begun(setting, output)
    added: list[Path] = []
    last: Path | None = None
    for round_ in range(setting.learn.rounds + 1):
        folder = output / f"round_{round_:02d}"
        model = _train(setting, folder, added, last, device)
        record = {"train": _metrics(folder)}
        if round_ < setting.learn.rounds:
            found = _one_round(setting, folder, model, round_)
            if found is None:
                return None
            record |= found
        _write_json(folder / RECORD, record)
        last = model
        if round_ == setting.learn.rounds:
            break
        if not record["added"]:
            say(f"round {round_}: nothing new was found; the loop ends")
            break
        added.append(folder / "added.xyz")
    write_atomically(output / BEST, last.read_bytes())
    return output / BEST


def _claim(setting: Setting, output: Path) -> None:
    """The directory belongs to one control file."""
    path = output / SETTING
    wanted = json.loads(json.dumps(setting.as_dict()))
    if not path.exists():
        if output.exists() and any(output.iterdir()):
            raise InvalidInput(f"{output}: is not empty and holds no active learning to go on with")
        output.mkdir(parents=True, exist_ok=True)
        _write_json(path, wanted)
        return
    before = json.loads(path.read_text())
    if before != wanted:
        names = [k for k, v in wanted["learn"].items() if before["learn"].get(k) != v]
        what = f"learn.{names[0]}" if names else "the plan of the training"
        raise InvalidInput(
            f"{output}: {what} was another when this active learning began; only learn.rounds and "
            "learn.workers may change: put it back, or choose another --output"
        )


def _begun(setting: Setting, output: Path) -> Setting:
    """The setting with the teacher's first data, where it has none."""
    if setting.files:
        return setting
    path = output / "begin.xyz"
    if not path.exists():
        first = output / "begin_unlabelled.xyz"
        seed = setting.plan.run.seed
        write(first, first_structures(setting.starts, setting.learn.initial_samples, seed))
        _label(setting, first, path)
    return setting.starting_with(DataFile(str(path)))


def _train(
    setting: Setting, folder: Path, added: Sequence[Path], last: Path | None, device: str
) -> Path:
    """The best model of a training, which goes on where it was stopped."""
    if last is not None and _closer(last, added):
        last = None  # below its min_dist a potential's radial functions end
    plan = setting.training(list(added), last)
    run = folder / RUN
    say(f"{folder.name}: training, {len(added)} rounds of added structures")
    train(plan, run, device=device, restart=(run / "plan.json").exists())
    return run / BEST


def _closer(model: Path, added: Sequence[Path]) -> bool:
    """Whether the last structures hold atoms closer than any that the model was begun with."""
    limit = load_model(model).spec.min_dist
    return min_distance(read(added[-1]), limit)[0] is not None


def _one_round(setting: Setting, folder: Path, model: Path, round_: int) -> dict[str, Any] | None:
    """Explore, pick, have labelled, add; None where the user is to label."""
    journeys = explore(setting, model, folder / "md", round_)
    picked = folder / "picked.xyz"
    if not picked.exists():
        candidates = [
            frame
            for k, journey in enumerate(journeys)
            if journey.candidates
            for frame in read(folder / "md" / f"md_{k:03d}.xyz")
        ]
        chosen = pick(setting.learn, model, candidates, setting.plan.run.seed + round_)
        write(picked, chosen) if chosen else write_atomically(picked, b"")
    if not picked.stat().st_size:
        return _record(journeys, [], [], None)
    labelled = folder / "labelled.xyz"
    if not labelled.exists():
        if setting.learn.teacher is None:
            say(
                f"label the structures of {picked} with energies, forces and stresses, put them "
                f"into {labelled}, and call the same command again"
            )
            return None
        _label(setting, picked, labelled)
    frames = read(labelled)
    judged = judge(model, frames)
    kept = accept(setting.learn, frames, judged, _mean_errors(folder))
    if kept:
        write(folder / "added.xyz", kept)
    return _record(journeys, frames, kept, judged)


def _label(setting: Setting, source: Path, target: Path) -> None:
    if setting.learn.teacher is None:
        raise InvalidInput(f"{source}: there is no teacher to label it")
    label(setting.learn.teacher, source, target, workers=setting.learn.workers)


def _record(
    journeys: Sequence[Journey],
    frames: Sequence[Structure],
    kept: Sequence[Structure],
    judged: Judged | None,
) -> dict[str, Any]:
    return {
        "journeys": [asdict(journey) for journey in journeys],
        "candidates": sum(journey.candidates for journey in journeys),
        "labelled": len(frames),
        "added": len(kept),
        "judged": None
        if judged is None
        else {name: np.asarray(values).tolist() for name, values in asdict(judged).items()},
    }


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RUN / "metrics.json").read_text())["default"]


def _mean_errors(folder: Path) -> dict[str, float]:
    """Mean absolute errors in training: energy (eV/atom), stress (eV/Å³)."""
    numbers = _metrics(folder)["train"]
    return {
        "energy": numbers.get("energy_mae_meV_per_atom", 0.0) / 1000,
        "stress": numbers.get("stress_mae_meV_per_A3", 0.0) / 1000,
    }


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
