"""A whole run: the only place that builds objects, in the order in which data flow."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers
from torch import Tensor

from mtp.data import DataError, Dataset, fingerprint, prepare
from mtp.errors import InvalidInput
from mtp.geometry import Geometry
from mtp.kernels.choose import device_for, kernel_name
from mtp.model_file import describe, load_model
from mtp.potential import Potential
from mtp.short_names import short_names
from mtp.terms import PREDICTED
from pretrained.registry import sha256, verified
from stages.calibration import calibrated_stage
from stages.distributed import is_root, on_root, own_device, same, size, together
from stages.evaluate import predict_structures
from stages.grade import add_grading
from stages.metrics import metrics
from stages.objective import NotFinite
from stages.plan import WITH_RATE, HeadPlan, Plan, Prefactors, Stage
from stages.plan_text import describe_plan
from stages.predictions import write_predictions
from stages.report.page import write_report
from stages.run.checkpoint import Checkpoint, Position
from stages.run.environment import environment
from stages.run.folder import Follower, Keeper, RunFolder
from stages.run.interrupt import Interrupt, interruptible
from stages.run.joining import join
from stages.run.start import build_potential
from stages.run.verdict import squared_errors, worse_than_start
from stages.say import say, warn
from stages.stress_order import permuted_stress
from stages.tasks import Sampler, TaskData
from stages.trainer import Setting, run_stage


def train(
    plan: Plan, output: str | Path, *, device: str = "auto", restart: bool = False
) -> dict[str, Any]:
    """Train what the plan says into a run directory; returns the content of metrics.json.

    restart: go on where the run in ``output`` stopped; a finished run is left as it is.
    Under torchrun all processes train together (stages/distributed.py); the first one writes, and
    the others return nothing.
    Raises InvalidInput for a directory or data that do not fit, NotFinite when training diverges,
    KeyboardInterrupt, after saving, when the user stops the run.
    """
    where = own_device(device_for(device))
    with together(where):
        return _train(plan, RunFolder(Path(output)), where, restart)


def _train(plan: Plan, folder: RunFolder, where: torch.device, restart: bool) -> dict[str, Any]:
    saved = on_root(lambda: folder.open(plan, restart))
    if plan.run.threads is not None:
        torch.set_num_threads(plan.run.threads)
    datasets = {task: read_data(plan, task) for task in plan.data}
    identity = fingerprints(plan, datasets)
    if saved is not None:
        refuse_changes(saved, identity)
        if saved.finished:
            say(f"{folder.path}: this run is finished")
            return json.loads(folder.metrics.read_text()) if is_root() else {}
    potential, origin = build_potential(plan, datasets, where, saved)
    same([*potential.state_dict().values(), *origin.values()])
    data = build_geometry(plan, datasets, potential, where)
    terms = switched_off(plan, data)
    processes = f"{size()} processes of " if size() > 1 else ""
    threads = f"{processes}{torch.get_num_threads()} threads"
    say(f"{kernel_name(where)} kernel, {plan.run.dtype}, {threads}")
    if is_root():
        if saved is None:
            begin(folder, plan, datasets)
        folder.write_json(folder.environment, environment(str(where)))
    if saved is None and len(plan.data) > 1:
        say(f"\n{describe_plan(plan)}\n")
    with interruptible() as interrupt:
        start = (potential, origin, datasets, data)
        run_stages(folder, plan, terms, *start, identity, saved, interrupt)
    return finish(folder, plan, datasets, where) if is_root() else {}


def read_data(plan: Plan, task: str) -> Dataset:
    """Structures of a task, split."""
    data = plan.data[task]
    head = next((head for head in plan.model.heads if head.name == task), HeadPlan())
    try:
        dataset = prepare(
            data,
            seed=plan.run.seed,
            cutoff=plan.model.rc,
            type_map=data.type_map,
            kind=head.kind,
            selected=[atomic_numbers[symbol] for symbol in head.species],
        )
    except DataError as error:
        raise InvalidInput(str(error)) from error
    if plan.run.strict and dataset.scan["warnings"]:
        raise InvalidInput(*dataset.scan["warnings"])
    for message in dataset.scan["warnings"]:
        warn(message)
    minibatches = any(stage.optimizer in WITH_RATE for stage in plan.stages)
    if minibatches and len(dataset.train) < plan.run.batch_size:
        say(f"batch_size {plan.run.batch_size}: one batch holds all {len(dataset.train)} frames")
    return dataset


def fingerprints(plan: Plan, datasets: dict[str, Dataset]) -> dict[str, str]:
    """What the result depends on besides the plan, name → SHA-256."""
    found, names = {}, data_names(plan)
    for task, dataset in datasets.items():
        for name in ("train", "valid", "test"):
            frames = getattr(dataset, name)
            for source in sorted({frame.source for frame in frames}):
                mine = [frame for frame in frames if frame.source == source]
                found[f"{names[source]} ({name} frames of {task})"] = fingerprint(mine)
    if plan.model.pretrained_model is not None:
        name = plan.model.pretrained_model
        found[f"{name} (pretrained_model)"] = sha256(verified(name))
    if plan.model.reload_model is not None:
        path = Path(plan.model.reload_model)
        if not path.is_file():
            raise InvalidInput(f"reload_model: {path}: no such file")
        found[f"{path.name} (reload_model)"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def data_names(plan: Plan) -> dict[str, str]:
    """Short names of all data files, by path: the same wherever the command is called from."""
    files = [f.path for data in plan.data.values() for f in (*data.files, *data.test_files)]
    absolute = {path: str(Path(path).resolve()) for path in files}
    short = short_names(absolute.values())
    return {path: short[absolute[path]] for path in files}


def refuse_changes(saved: Checkpoint, identity: dict[str, str]) -> None:
    """Raises InvalidInput naming every file that is not what it was when the run began."""
    names = {**saved.identity, **identity}
    changed = [name for name in names if saved.identity.get(name) != identity.get(name)]
    if changed:
        raise InvalidInput(
            *(
                f"{name}: changed since the run began; a restart needs the same data: put them "
                "back, or start in a new directory"
                for name in changed
            )
        )


def build_geometry(
    plan: Plan, datasets: dict[str, Dataset], potential: Potential, device: torch.device
) -> dict[str, TaskData]:
    """Pairs of all training and validation frames; the memory is shared out by atoms."""
    sets = {(t, n): getattr(d, n) for t, d in datasets.items() for n in ("train", "valid")}
    terms = {head.name: PREDICTED[head.kind] for head in potential.spec.heads}
    selected = {head.name: head.species for head in potential.spec.heads}
    atoms = Counter({key: sum(map(len, frames)) for key, frames in sets.items()})
    geometry = {
        key: Geometry(
            frames,
            potential.spec.species,
            potential.spec.cutoff,
            potential.dtype,
            device,
            plan.run.memory * atoms[key] / atoms.total(),
            terms[key[0]],
            selected[key[0]],
        )
        for key, frames in sets.items()
    }
    return {t: TaskData.of(geometry[t, "train"], geometry[t, "valid"], terms[t]) for t in datasets}


def switched_off(plan: Plan, data: dict[str, TaskData]) -> Plan:
    """The plan with coefficient 0 for every term that has no label, with one warning each.

    Raises InvalidInput for a task without any label, for a stage left without a term, and with
    ``strict`` for every term without labels.
    """
    absent = {t: [k for k, there in d.labelled.items() if not there] for t, d in data.items()}
    lines = []
    for task, terms in absent.items():
        if len(terms) == len(data[task].terms):
            raise InvalidInput(f"data of {task}: no frame has a label of {' or '.join(terms)}")
        lines += [
            f"data of {task}: no training frame has {term}: term switched off" for term in terms
        ]
    if lines and plan.run.strict:
        raise InvalidInput(*lines)
    for line in lines:
        warn(line)
    return replace(plan, stages=tuple(_without(stage, absent) for stage in plan.stages))


def _without(stage: Stage, absent: dict[str, list[str]]) -> Stage:
    tasks = {}
    for name, task in stage.tasks.items():
        if task.coefficients is not None:
            off = task.coefficients | dict.fromkeys(absent[name], 0.0)
            following = task.prefactors  # these set the coefficients anew at every step
            if following is not None:
                following = following | dict.fromkeys(absent[name], Prefactors(0.0, 0.0))
            task = replace(task, coefficients=off, prefactors=following)
            if not any(task.coefficients.values()):
                raise InvalidInput(
                    f"{stage.name}: its coefficients of the terms that have labels in the data of "
                    f"{name} are all 0; make one positive"
                )
        tasks[name] = task
    return replace(stage, tasks=tasks)


def begin(folder: RunFolder, plan: Plan, datasets: dict[str, Dataset]) -> None:
    """Make the directory with the plan and the scan of the data."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_json(folder.plan, plan.as_dict())
    scans = {task: dataset.scan for task, dataset in datasets.items()}
    folder.write_json(folder.scan, scans)


def run_stages(
    folder: RunFolder,
    plan: Plan,
    terms: Plan,
    potential: Potential,
    origin: dict[str, Tensor],
    datasets: dict[str, Dataset],
    data: dict[str, TaskData],
    identity: dict[str, str],
    saved: Checkpoint | None,
    interrupt: Interrupt,
) -> None:
    """All stages that are left. terms: the plan with the terms without labels switched off."""
    provenance = {"plan": _header_plan(plan), "data": identity}
    keeper: Keeper | Follower = Follower(origin, interrupt)
    if is_root():
        keeper = Keeper(folder, potential, origin, identity, provenance, saved, interrupt)
    run = plan.run
    setting = Setting(potential, data, run.batch_size, run.seed, run.task_draw == "random")
    position = Position() if saved is None else saved.position
    with closing(keeper):
        for index in range(position.stage, len(plan.stages)):
            stage = terms.stages[index]
            if any(task.coefficients is None for task in stage.tasks.values()):
                stage = on_root(partial(_calibrated, folder, terms, stage, keeper, setting))
            if position.optimiser is None:
                keeper.origin = join(plan, index, potential, datasets, keeper.origin)
            setting = replace(setting, origin=keeper.origin)
            try:
                run_stage(setting, stage, index, position, keeper)
            except NotFinite:
                keeper.write_models()
                raise
            keeper.stage_ends(index + 1)
            position = Position(stage=index + 1, epoch=0)
        interrupt.remove()


def _calibrated(
    folder: RunFolder, terms: Plan, stage: Stage, keeper: Keeper, setting: Setting
) -> Stage:
    """The calibration stage with its coefficients, from the log; writes how they came about."""
    stage, table = calibrated_stage(terms, stage, keeper.log.rows(), _shares(stage, setting))
    folder.write_json(folder.calibration, table)
    return stage


def _shares(stage: Stage, setting: Setting) -> dict[str, float]:
    """Task → its share of a stage."""
    frames = {task: len(data.train) for task, data in setting.data.items()}
    weights = Sampler(stage, frames, setting.batch_size, setting.seed, 0).shares
    return {task: weight / sum(weights.values()) for task, weight in weights.items()}


def _header_plan(plan: Plan) -> dict[str, Any]:
    """The plan as model files carry it: without what the result does not depend on."""
    content = plan.as_dict()
    del content["warnings"], content["run"]["memory"], content["run"]["strict"]
    names = data_names(plan)
    for data in content["data"].values():
        for file in (*data["files"], *data["test_files"]):
            file["path"] = names[file["path"]]
    return content


def finish(
    folder: RunFolder, plan: Plan, datasets: dict[str, Dataset], device: torch.device
) -> dict[str, Any]:
    """Test the best model, write predictions, metrics and report, and mark the run as finished."""
    if plan.run.grade:
        frames = [frame for dataset in datasets.values() for frame in dataset.train]
        add_grading(folder.best, frames, plan.run.memory)
    best = load_model(folder.best).cast(getattr(torch, plan.run.dtype)).to(device)
    predictions = {
        task: {
            name: predict_structures(best, frames, task)
            for name in ("train", "valid", "test")
            if (frames := getattr(dataset, name))
        }
        for task, dataset in datasets.items()
    }
    write_predictions(folder.predictions, predictions)
    for sets in predictions.values():
        for message in permuted_stress(sets["train"]):
            warn(message)
    if plan.model.pretrained_model or plan.model.reload_model:
        place = describe(folder.best)["provenance"]
        log = [json.loads(line) for line in folder.log.read_text().splitlines()]
        ends = {
            task: squared_errors(sets["valid"], datasets[task].valid)
            for task, sets in predictions.items()
            if "valid" in sets
        }
        for message in worse_than_start(log, place["stage"], place["epoch"], ends):
            warn(message)
    values = metrics(predictions)
    folder.write_json(folder.metrics, values)
    write_report(folder.path)
    folder.mark_finished()
    return values
