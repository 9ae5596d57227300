"""Tasks of a control file → heads of the potential and their data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtp.terms import PREDICTED
from stages.control.defaults import TASK, TENSOR_LEVEL
from stages.control.loaded import Loaded
from stages.control.reader import Reading, beside
from stages.control.schema import ControlFile
from stages.control.sections.data import DataConfig, FileEntry
from stages.control.sections.tasks import RANDOM, Readout, Task
from stages.plan import DataFile, DataPlan, EmbeddingPlan, HeadPlan

KINDS = {"ener": "energy", "dipole": "dipole", "polar": "polarizability"}
"""Type of a task → kind of its head."""


def tasks_of(control: ControlFile) -> dict[str, Task]:
    """The tasks by name; a file that names none has the single task `default`."""
    return control.tasks.named or {TASK: Task()}


def terms_of(task: Task) -> tuple[str, ...]:
    """What a task predicts."""
    return PREDICTED[KINDS[task.type]]


def source_of(control: ControlFile, name: str, loaded: Loaded | None) -> str | None:
    """The head of the loaded model that a task starts from, RANDOM, or None: nothing is loaded.

    It is the one that the task names, that of its own name or, for a single task, the default one
    (stages/run/loading.py).
    """
    if loaded is None:
        return None
    given = control.tasks.named[name].finetune_head
    if given is not None:
        return given
    if name in loaded.heads:
        return name
    alone = len(control.tasks.named) == 1
    return loaded.default if alone and loaded.default is not None else RANDOM


def completed(control: ControlFile, loaded: Loaded | None) -> ControlFile:
    """The file with the types of the heads that tasks start from, where they give none."""
    words = {kind: word for word, kind in KINDS.items()}
    types = {}
    for name, task in control.tasks.named.items() if loaded else ():
        found = loaded.heads.get(source_of(control, name, loaded))
        if found is not None and "type" not in task.model_fields_set:
            types[name] = task.model_copy(update={"type": words[found["kind"]]})
    return control.model_copy(update={"tasks": control.tasks.model_copy(update=types)})


def head_plan(control: ControlFile, name: str, loaded: Loaded | None) -> HeadPlan:
    """The head of a task: as the loaded file has it, else as the control file says."""
    task = tasks_of(control)[name]
    source = source_of(control, name, loaded)
    if loaded is None or source not in loaded.heads:
        return replace(new_head(control, name, task), source=source)
    loaded_head = from_file(name, loaded.heads[source])
    return replace(loaded_head, source=source, adjust=task.adjust_shifts)


def new_head(control: ControlFile, name: str, task: Task) -> HeadPlan:
    """The head that a task asks for, nothing being loaded."""
    level = None if task.type == "ener" else TENSOR_LEVEL
    readout = task.readout or Readout(neuron=control.mtp_config.nn_dim_list)
    return HeadPlan(
        name,
        kind=KINDS[task.type],
        hidden=tuple(readout.neuron),
        activation=readout.activation,
        timestep=readout.resnet_dt,
        shared=tuple(task.layer_name) if any(task.layer_name or ()) else (),
        level=level if task.level is None else task.level,
        species=tuple(sorted(task.sel_type or ())),
        embedded=readout.embedding,
    )


def from_file(name: str, found: dict) -> HeadPlan:
    """A head as the loaded model has it."""
    same = ("kind", "activation", "timestep", "level", "embedded")
    return HeadPlan(
        name,
        **{key: found[key] for key in same},
        **{key: tuple(found[key]) for key in ("hidden", "shared")},
        species=tuple(sorted(found["species"])),
    )


def embedding_plan(control: ControlFile) -> EmbeddingPlan | None:
    """The type embedding of a new potential; a loaded one has that of its file."""
    section = control.tasks.type_embedding
    if section is None or control.common_config.reload_model or control.mtp_config.pretrained_model:
        return None
    return EmbeddingPlan(tuple(section.neuron), section.resnet_dt)


def data_plan(
    reading: Reading, name: str, loaded: Loaded | None, data: Sequence[str], test: Sequence[str]
) -> DataPlan:
    """The data of a task. data, test: files of the command line in place of those of the file."""
    control = reading.control
    own = control.tasks.named.get(name, Task()).data or DataConfig()
    common = control.common_config
    stored = inherited_data(control, name, loaded)
    if stored is not None:
        plan = _stored_plan(reading.path, stored, loaded)
        section, keys = own, own.model_fields_set
        limits = common.model_fields_set
    else:
        plan = DataPlan(files=())
        section, keys = data_section(control, name), set(DataConfig.model_fields)
        limits = {"max_energy", "max_forces"}
    changed = {key: getattr(section, key) for key in keys}
    if changed.get("type_map") is not None:
        changed["type_map"] = tuple(changed["type_map"])
    changed |= {key: getattr(common, key) for key in ("max_energy", "max_forces") if key in limits}
    for key, replaced_by in (("files", data), ("test_files", test)):
        if replaced_by:
            changed[key] = tuple(DataFile(path) for path in replaced_by)
        elif key in changed:
            changed[key] = _files(reading.path, changed[key])
    return replace(plan, **changed)


def data_section(control: ControlFile, name: str) -> DataConfig:
    """data_config with what the task changes; of several tasks each has its own files."""
    section = control.data_config
    if len(tasks_of(control)) > 1:
        section = section.model_copy(update={"files": [], "test_files": []})
    own = tasks_of(control)[name].data
    if own is None:
        return section
    return section.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def inherited_data(control: ControlFile, name: str, loaded: Loaded | None) -> dict | None:
    """The stored DataPlan of a task that goes on from its own head and names no files."""
    task = control.tasks.named.get(name)
    if loaded is None or task is None or source_of(control, name, loaded) != name:
        return None
    return None if task.data and task.data.files else loaded.data.get(name)


def _stored_plan(control: Path, stored: dict, loaded: Loaded) -> DataPlan:
    from pydantic import TypeAdapter

    plan = TypeAdapter(DataPlan).validate_python(stored)
    return replace(
        plan,
        **{
            key: tuple(
                replace(file, path=loaded.find(control, file.path) or file.path)
                for file in getattr(plan, key)
            )
            for key in ("files", "test_files")
        },
    )


def _files(control: Path, written: Sequence[str | FileEntry]) -> tuple[DataFile, ...]:
    entries = [FileEntry(path=entry) if isinstance(entry, str) else entry for entry in written]
    return tuple(DataFile(str(beside(control, e.path)), e.weight) for e in entries)
