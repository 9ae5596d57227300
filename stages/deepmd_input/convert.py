"""`mtp convert input.json control.json`: an input of DeePMD-kit as a control file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mtp.atomic_file import write_atomically
from mtp.errors import InvalidInput
from stages.control.document import YAML_SUFFIXES, read_document
from stages.deepmd_input.data import batch_size, batches, data_of, one_size, systems_of
from stages.deepmd_input.forms import Branch, Form, read_form
from stages.deepmd_input.heads import energies_of_atoms, head, mtp_config, precision, type_embedding
from stages.deepmd_input.keys import Keys, Notes
from stages.deepmd_input.losses import loss_of
from stages.deepmd_input.schedule import epochs, rates, schedule, task_options

SUFFIXES = (".json", *YAML_SUFFIXES)
"""Of inputs and of control files."""


def convert_input(source: Path, target: Path) -> Notes:
    """Write the control file that means what an input does, as far as the meaning carries.

    Returns a line for everything that has no counterpart or another meaning.
    Raises InvalidInput for files that are no input of DeePMD-kit, version 2 or 3.
    """
    document = read_document(source)
    if document.mistakes:
        raise InvalidInput(*(f"{source}: {line}" for line in document.mistakes.values()))
    content = document.data
    if not isinstance(content, dict) or not {"model", "training"} <= content.keys():
        raise InvalidInput(
            f'{source}: no input of DeePMD-kit: it needs "model" and "training"; name another file'
        )
    try:
        form = read_form(content)
        control = _control(form, source, target)
    except InvalidInput as error:
        raise InvalidInput(*(f"{source}: {line}" for line in error.lines)) from None
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise InvalidInput(
            f"{source}: not as DeePMD-kit's inputs are ({type(error).__name__}: {error}); run it "
            "through `dp train` once, or correct it"
        ) from error
    write_atomically(target, _text(control, target).encode())
    return form.notes


def _text(control: dict[str, Any], target: Path) -> str:
    text = json.dumps(control, indent=2, ensure_ascii=False) + "\n"
    if target.suffix.lower() in YAML_SUFFIXES:  # from text: equal lists must not become aliases
        return yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True)
    return text


def _control(form: Form, source: Path, target: Path) -> dict[str, Any]:
    """The content of the control file."""
    tasks, sizes, systems = _tasks(form, source, target)
    size = one_size(sizes, form.notes)
    counted = {name: batches(found, size) for name, found in systems.items()}
    numbers = {name: len(tasks[name]["data"].get("files", [])) for name in sizes}
    options, number = task_options(form, numbers)
    number = number or epochs(form, counted)
    rate, own_rates = rates(form)
    per_epoch = None if None in counted.values() else sum(counted.values())
    common, run = schedule(rate, number, per_epoch)
    if own_rates:
        options["task_loss"] = [{name: {"lr": value} for name, value in own_rates.items()}]
    options |= _optimiser(form)
    run |= precision(form) | _seed(form.training)
    if form.version > 1:
        run["task_draw"] = "random"
    control = {
        "_source": f"{source.name}, an input of DeePMD-kit",
        "common_config": {"batch_size": size, **common},
        "mtp_config": mtp_config(form),
        "multistage_config": _stage(rate.start, number),
        "stage_options": options,
        "run_config": run,
        "data_config": _common_data(tasks),
        "tasks": tasks,
    }
    _close(form)
    return {name: section for name, section in control.items() if section}


def _tasks(form: Form, source: Path, target: Path) -> tuple[dict, dict, dict]:
    """The section `tasks`, and batch sizes and systems of the tasks."""
    tasks: dict[str, Any] = {}
    sizes, systems = {}, {}
    if not form.descriptor.data:
        tasks["descriptor"] = {}
        form.notes.add(
            form.descriptor.place, "is that of a model: name it in common_config.reload_model"
        )
    embedding = type_embedding(form)
    if embedding is not None:
        tasks["type_embedding"] = embedding
    for branch in form.branches:
        e0 = energies_of_atoms(branch)
        task = head(branch, form, embedding is not None)
        data = data_of(branch, source, target)
        systems[branch.name] = systems_of(data.get("files", []), target)
        sizes[branch.name] = batch_size(branch, systems[branch.name])
        if branch.type_map:
            data["type_map"] = list(branch.type_map)
        if e0 is not None:
            data["e0"] = e0
        tasks[branch.name] = {**task, "data": data, **_loss(branch, task, form.version)}
    return tasks, sizes, systems


def _loss(branch: Branch, task: dict[str, Any], version: int) -> dict[str, Any]:
    """The loss of a task, unless it is that of a head of a loaded model."""
    if task:
        return {"loss": loss_of(branch, task.get("type", "ener"), version)}
    branch.loss.note("", "losses are not taken over from a model: give one in tasks/NAME/loss")
    branch.loss.close()
    return {}


def _common_data(tasks: dict[str, Any]) -> dict[str, Any]:
    """What all tasks have in common of their data moves to data_config."""
    own = [task["data"] for task in tasks.values() if "data" in task]
    maps = [data.get("type_map") for data in own]
    if not maps or maps[0] is None or any(one != maps[0] for one in maps):
        return {}
    for data in own:
        del data["type_map"]
    for task in tasks.values():
        if task.get("data") == {}:
            del task["data"]
    return {"type_map": maps[0]}


def _stage(rate: float, number: int) -> dict[str, Any]:
    """One stage; DeePMD-kit has no calibration."""
    return {
        "lr_list": [rate],
        "epoch_list": [number],
        "energy_loss_coeff_list": [1.0],
        "forces_loss_coeff_list": [1.0],
        "stress_loss_coeff_list": [1.0],
        "loss_func_list": ["mse"],
        "use_calib_stage": False,
    }


def _optimiser(form: Form) -> dict[str, Any]:
    """Adam and its options."""
    section = form.root.section("optimizer")
    kind = section.take("type", default=form.training.take("opt_type", default="Adam"))
    if kind not in ("Adam", "AdamW"):
        section.note("type", f"{kind!r} has no counterpart: adam")
    found: dict[str, Any] = {"optimizer": ["adam"]}
    decay = section.take("weight_decay", default=form.training.take("weight_decay", default=0.0))
    clip = form.training.take("gradient_max_norm", default=0.0)
    if kind == "AdamW" and decay:
        found["weight_decay"] = [float(decay)]
    if clip:
        found["gradient_clip"] = [float(clip)]
    section.close()
    return found


def _seed(training: Keys) -> dict[str, Any]:
    seed = training.take("seed")
    seed = seed[0] if isinstance(seed, list) and seed else seed
    return {} if seed is None else {"seed": abs(int(seed)) % 2**32}


def _close(form: Form) -> None:
    """Note everything that nobody took."""
    form.training.close()
    form.model.close({"shared_dict": "is taken apart"})
    form.root.close()
