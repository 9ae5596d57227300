"""What a restart would change about a run, in the words of the control file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from stages.control.defaults import TASK

FREE = ("/warnings", "/run/strict", "/run/memory")  # parts of the plan that change no result
LISTS = {"lr": "lr_list", "epochs": "epoch_list", "loss": "loss_func_list"}
OF_HEAD = {
    "name": "name",
    "kind": "type",
    "hidden": "readout.neuron",
    "activation": "readout.activation",
    "timestep": "readout.resnet_dt",
    "embedded": "readout.embedding",
    "shared": "layer_name",
    "level": "level",
    "species": "sel_type",
    "source": "finetune_head",
    "adjust": "adjust_shifts",
}
"""Fields of HeadPlan → keys of a task."""
ELSEWHERE = {  # parts of the plan that stand in another section than their neighbours
    "/model/reload_model": "common_config.reload_model",
    "/model/heads": "tasks (heads)",
    "/model/embedding": "tasks.type_embedding",
    "/model/embedding/neuron": "tasks.type_embedding.neuron",
    "/model/embedding/timestep": "tasks.type_embedding.resnet_dt",
    "/run/batch_size": "common_config.batch_size",
    "kind": "common_config.lr_scheduling",
    "step_size": "common_config.scheduler_step_size",
    "gamma": "run_config.scheduler_gamma",
    "min_ratio": "run_config.lr_min_ratio",
}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for every value of a plan (plain data) that is not what it was.

    Paths of data files do not count: what is in the files does (`train.py`, `fingerprints`).
    """
    return [
        f"the control file changed: {_name(where, before)}: was {json.dumps(old)}, is now "
        f"{json.dumps(new)}; a restart cannot change it: put it back, or start in a new directory"
        for where, old, new in _different(before, now)
    ]


def _different(before: Any, now: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Place, old and new value of what differs."""
    if where in FREE or where.endswith("/path"):
        return
    if where in ("/stages", "/model/heads"):
        names = [[one["name"] for one in given] for given in (before, now)]
        if names[0] != names[1]:
            yield where, *names
            return
    if isinstance(before, dict) and isinstance(now, dict):
        both = before.keys() & now.keys() if _of_tasks(where) else {**before, **now}
        for key in (key for key in {**before, **now} if key in both):
            yield from _different(before.get(key), now.get(key), f"{where}/{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _different(old, new, f"{where}/{i}")
    elif before != now:
        yield where, before, now


def _of_tasks(where: str) -> bool:
    """Whether this is an object by task; the list of heads says which tasks come and go."""
    return where == "/data" or where.endswith("/tasks")


def _name(where: str, plan: dict[str, Any]) -> str:
    """The key of the control file that a place in the plan comes from."""
    _, part, *rest = where.split("/")
    single = list(plan["data"]) == [TASK]
    if where in ELSEWHERE:
        return ELSEWHERE[where]
    if part == "stages":
        if not rest:
            return "multistage_config (stages)"
        key = _stage_key(rest[1:]) if single or "tasks" not in rest else _task_key(*rest[2:])
        return f"{key} of {plan['stages'][int(rest[0])]['name']}"
    if part == "data" and len(rest) > 1:
        if rest[1] in ("max_energy", "max_forces"):
            return f"common_config.{rest[1]}"
        return (
            ".".join(["data_config"] if single else ["tasks", rest[0], "data"])
            + "."
            + ".".join(rest[1:])
        )
    if where.startswith("/model/heads/"):
        if single and rest[2] == "hidden":
            return "mtp_config.nn_dim_list"
        return f"tasks.{plan['model']['heads'][int(rest[1])]['name']}.{OF_HEAD[rest[2]]}"
    return ".".join([{"model": "mtp_config", "run": "run_config"}.get(part, part), *rest])


def _stage_key(rest: list[str]) -> str:
    """The key of a stage, or of its single task."""
    last = rest[-1]
    if "schedule" in rest:
        return ELSEWHERE[last]
    if "coefficients" in rest and last in ("energy", "forces", "stress"):
        return f"multistage_config.{last}_loss_coeff_list"
    if rest[:2] == ["tasks", TASK] and rest[2] != "loss":
        return _task_key(*rest[1:])
    if last in LISTS:
        return f"multistage_config.{LISTS[last]}"
    for key in ("calibration_target", "task_target"):
        if key in rest:
            return f"stage_options.{key}"
    return f"stage_options.{last}"


def _task_key(task: str, field: str, *rest: str) -> str:
    """The key of what a stage asks of a task."""
    if field in ("weight", "epochs"):
        return f"stage_options.task_{field}.{task}"
    if field == "energy_weighting":
        return "stage_options.energy_weighting"
    key = ".".join([{"loss": "loss_func", "coefficients": "coefficients"}.get(field, field), *rest])
    return f"tasks.{task}.loss or stage_options.task_loss ({key})"
