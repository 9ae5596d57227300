"""Stages × tasks: what each task asks of each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mtp.terms import TERMS
from stages.control.defaults import TASK, TENSOR_COEFFICIENT
from stages.control.heads import tasks_of, terms_of
from stages.control.schema import ControlFile
from stages.control.sections.loss import TaskLoss
from stages.control.sections.options import StageOptions
from stages.control.sections.tasks import Task
from stages.plan import Coefficients, Prefactors, Stage, TaskStage


def entry_of(values: Sequence[Any] | None, stage: int) -> Any:
    """The entry of a list of stage_options for a stage; calibration repeats the last one."""
    return values[min(stage, len(values) - 1)] if values else None


def with_tasks(stages: Sequence[Stage], control: ControlFile) -> list[Stage]:
    """The stages of a single energy task, for the tasks of the file."""
    found: list[Stage] = []
    for i, one in enumerate(stages):
        tasks = {
            name: _task_stage(name, task, one.tasks[TASK], control.stage_options, i)
            for name, task in tasks_of(control).items()
        }
        if one.name == "calibration":
            tasks = _calibrated(tasks, found[-1].tasks, control, i)
            one = _with_targets(one, control)
        found.append(replace(one, tasks=tasks))
    return found


def _task_stage(
    name: str, task: Task, energy: TaskStage, options: StageOptions, i: int
) -> TaskStage:
    """A task in a stage. energy: what the stage's lists say of energy tasks."""
    one = energy
    if task.type != "ener":
        coefficients = dict.fromkeys(terms_of(task), TENSOR_COEFFICIENT)
        one = TaskStage("mse", coefficients, energy.energy_weighting)
    for loss in (task.loss, (entry_of(options.task_loss, i) or {}).get(name)):
        one = with_loss(one, loss)
    weights, epochs = entry_of(options.task_weight, i), entry_of(options.task_epochs, i)
    if epochs is not None:
        passes = epochs.get(name) or 0.0
        return replace(one, epochs=passes) if passes else replace(one, weight=0.0)
    return one if weights is None else replace(one, weight=float(weights.get(name) or 0.0))


def with_loss(one: TaskStage, loss: TaskLoss | None) -> TaskStage:
    """The task in a stage with what a loss of the file changes."""
    if loss is None:
        return one
    changes = {"loss": loss.loss_func, "energy_weighting": loss.energy_weighting}
    changes["lr"] = getattr(loss, "lr", None)
    if loss.huber_delta is not None:
        changes["huber_delta"] = (one.huber_delta or {}) | loss.huber_delta
    one = replace(one, **{key: value for key, value in changes.items() if value is not None})
    given = coefficients_of(loss)
    constant = {term: Prefactors(value, value) for term, value in given.items()}
    if loss.prefactors is not None:
        following = {
            "stress" if term == "virial" else term: Prefactors(*ends)
            for term, ends in loss.prefactors.items()
        }
        return _following(replace(one, virial="virial" in loss.prefactors), following | constant)
    if one.prefactors is not None and given:
        virial = one.virial and "stress" not in given
        return _following(replace(one, virial=virial), one.prefactors | constant)
    if one.coefficients is None:
        return one
    return replace(one, coefficients=one.coefficients | given)


def coefficients_of(loss: TaskLoss) -> Coefficients:
    """The coefficients that a loss gives."""
    given = {term: getattr(loss, f"{term}_coeff") for term in TERMS}
    return {term: value for term, value in given.items() if value is not None}


def _following(one: TaskStage, prefactors: dict[str, Prefactors]) -> TaskStage:
    """Coefficients that follow the learning rate; that of a term is 0 only if it stays 0."""
    values = {term: p.start or p.limit for term, p in prefactors.items()}
    return replace(one, prefactors=prefactors, coefficients=values)


def _calibrated(
    tasks: Mapping[str, TaskStage],
    before: Mapping[str, TaskStage],
    control: ControlFile,
    i: int,
) -> dict[str, TaskStage]:
    """The tasks of the calibration stage: the loss of the stage before, coefficients to be set."""
    found = {}
    for name, task in tasks.items():
        given = (entry_of(control.stage_options.task_loss, i) or {}).get(name)
        last = before[name]
        found[name] = TaskStage(
            (given and given.loss_func) or last.loss,
            None,
            weight=task.weight,
            lr=task.lr,
            epochs=task.epochs,
            huber_delta=task.huber_delta if given and given.huber_delta else last.huber_delta,
        )
    return found


def _with_targets(calibration: Stage, control: ControlFile) -> Stage:
    """Calibration with the shares asked for, its own, or equal ones."""
    target, own = control.stage_options.calibration_target, calibration.calibration_target
    shares = {}
    for name, task in tasks_of(control).items():
        asked = target_of(target, name)
        if asked is None and own is not None and task.type == "ener":
            shares[name] = own[TASK]
        else:
            shares[name] = {term: (asked or {}).get(term, 1.0) for term in terms_of(task)}
    return replace(
        calibration,
        calibration_target=shares,
        task_target=control.stage_options.task_target,
    )


def by_task(target: Mapping[str, Any] | None) -> bool:
    """Whether a calibration_target gives shares for each task and not for all."""
    return bool(target) and all(isinstance(value, Mapping) for value in target.values())


def target_of(target: Mapping[str, Any] | None, name: str) -> Coefficients | None:
    """The shares of the terms of a task that a calibration_target asks for."""
    return target.get(name) if target and by_task(target) else target
