"""The three forms of an input (one task; tasks of version 2; tasks of version 3) as one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from mtp.errors import InvalidInput
from stages.deepmd_input.keys import Keys, Notes

SINGLE = "default"


@dataclass
class Branch:
    """One task: its objects of the input.

    shared: name of the fitting net in shared_dict, where several tasks have it in common.
    """

    name: str
    fitting: Keys
    loss: Keys
    training: Keys
    validation: Keys
    rate: Keys | None = None
    shared: str | None = None
    type_map: list[str] = field(default_factory=list)
    finetune_head: str | None = None


@dataclass
class Form:
    """An input. version: 1 (a single task), 2 or 3 (form of the tasks).

    names: name in the input → name of the task.
    """

    version: int
    root: Keys
    model: Keys
    training: Keys
    descriptor: Keys
    branches: list[Branch]
    names: dict[str, str]
    notes: Notes


def read_form(content: dict[str, Any]) -> Form:
    """The parts of an input. Raises InvalidInput when it has no model or no task with data."""
    notes = Notes()
    root = Keys(content, "", notes)
    model, training = root.section("model"), root.section("training")
    if "model_dict" in model:
        form = _version_3(root, model, training)
    elif "fitting_net_dict" in model:
        form = _version_2(root, model, training)
    else:
        form = _single(root, model, training)
    form.branches = [branch for branch in form.branches if _usable(branch, form.version)]
    if not form.branches:
        raise InvalidInput("no task of a type that is known has training data; add some")
    return form


def _single(root: Keys, model: Keys, training: Keys) -> Form:
    branch = Branch(
        SINGLE,
        model.section("fitting_net"),
        root.section("loss"),
        training.section("training_data"),
        training.section("validation_data"),
        type_map=model.take("type_map", default=[]),
    )
    descriptor = model.section("descriptor")
    return Form(1, root, model, training, descriptor, [branch], {SINGLE: SINGLE}, root.notes)


def _version_2(root: Keys, model: Keys, training: Keys) -> Form:
    nets, losses = model.section("fitting_net_dict"), root.section("loss_dict")
    data, rates = training.section("data_dict"), root.section("learning_rate_dict")
    type_map = model.take("type_map", default=[])
    names = _names(nets)
    branches = []
    for name, task in names.items():
        sets = data.section(name)
        branches.append(
            Branch(
                task,
                nets.section(name),
                losses.section(name),
                sets.section("training_data"),
                sets.section("validation_data"),
                rates.section(name) if name in rates else None,
                type_map=type_map,
            )
        )
        sets.close()
    for section in (losses, data, rates):
        section.close(dict.fromkeys(section.data, "names no task of fitting_net_dict"))
    descriptor = model.section("descriptor")
    return Form(2, root, model, training, descriptor, branches, names, root.notes)


def _version_3(root: Keys, model: Keys, training: Keys) -> Form:
    shared, tasks = model.take("shared_dict", default={}), model.section("model_dict")
    losses, data = root.section("loss_dict"), training.section("data_dict")
    names, branches = _names(tasks), []
    descriptors: list[tuple[str, Any]] = []
    for name, task in names.items():
        one, sets = tasks.section(name), data.section(name)
        descriptors.append((one.at("descriptor"), one.take("descriptor", default={})))
        net = one.take("fitting_net", default={})
        branches.append(
            Branch(
                task,
                Keys(_resolved(net, shared), one.at("fitting_net"), root.notes),
                losses.section(name),
                sets.section("training_data"),
                sets.section("validation_data"),
                shared=_base(net) if isinstance(net, str) else None,
                type_map=_resolved(one.take("type_map", default=[]), shared),
                finetune_head=one.take("finetune_head"),
            )
        )
        sets.close()
        one.close()
    descriptor = _common_descriptor(descriptors, shared, root.notes)
    return Form(3, root, model, training, descriptor, branches, names, root.notes)


def _resolved(value: Any, shared: dict[str, Any]) -> Any:
    """What a name "part" or "part:level" of shared_dict stands for."""
    if not isinstance(value, str):
        return value
    name = _base(value)
    if name not in shared:
        raise InvalidInput(f"model/shared_dict has no {name!r}; add it")
    return shared[name]


def _common_descriptor(found: list[tuple[str, Any]], shared: dict[str, Any], notes: Notes) -> Keys:
    """The descriptor of the first task, which is that of all."""
    place, first = found[0] if found else ("model", {})
    for other, value in found:
        if isinstance(value, str) and value.partition(":")[2] not in ("", "0"):
            notes.add(other, f"{value!r} shares a part; here all tasks share the whole descriptor")
        if _base(value) != _base(first):
            notes.add(other, f"all tasks have one descriptor here, that of {place}")
    return Keys(_resolved(first, shared), place, notes)


def _base(value: Any) -> Any:
    """A name of shared_dict without its level."""
    return value.partition(":")[0] if isinstance(value, str) else value


def _names(nets: Keys) -> dict[str, str]:
    """Name in the input → name of the task, which has letters, digits, _ and - only."""
    found = {}
    for name in nets.data:
        if not name.startswith("_"):
            found[name] = re.sub(r"[^A-Za-z0-9_-]", "_", name)
            if found[name] != name:
                nets.note(name, f"is called {found[name]} here")
    return found


def _usable(branch: Branch, version: int) -> bool:
    """Whether the task can be trained; says so where it cannot."""
    kind = branch.fitting.data.get("type", "ener")
    if kind not in ("ener", "dipole", "polar", "global_polar"):
        branch.fitting.note("type", f"{kind!r} has no counterpart: the task is left out")
        return False
    if not branch.training.data and branch.fitting.data:
        branch.training.notes.add(branch.training.place, "has no data: the task is left out")
        return False
    return True
