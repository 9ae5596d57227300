"""Rules about the losses of tasks, in all stages (`tasks`) and in single ones (`task_loss`)."""

from __future__ import annotations

from collections.abc import Iterator

from stages.control.findings import OPTIONS, STAGE_KEYS, Context, Finding, planned, rule
from stages.control.heads import tasks_of, terms_of
from stages.control.sections.loss import TaskLoss
from stages.control.sections.tasks import Task
from stages.control.task_sequence import coefficients_of
from stages.plan import WITH_RATE, Stage

OF_CALIBRATION = {"loss_func", "huber_delta", "lr"}


@rule(*STAGE_KEYS)
def _terms(context: Context) -> Iterator[Finding]:
    """A loss speaks of what its task predicts, and of each term once."""
    for where, task, loss in _losses(context):
        known = terms_of(task)
        named = [(f"{term}_coeff", term) for term in coefficients_of(loss)]
        named += [(f"prefactors/{term}", term) for term in loss.prefactors or ()]
        named += [(f"huber_delta/{term}", term) for term in loss.huber_delta or ()]
        for key, term in named:
            if {"virial": "stress"}.get(term, term) not in known:
                message = f"a task of type {task.type} has {', '.join(known)}"
                yield Finding(f"{where}/{key}", f"{message}; remove it")
        yield from _once(where, loss)


def _once(where: str, loss: TaskLoss) -> Iterator[Finding]:
    following = loss.prefactors or {}
    if {"stress", "virial"} <= set(following):
        message = "stress and virial are one term"
        yield Finding(f"{where}/prefactors/virial", f"{message}; remove one of them")
    for term in coefficients_of(loss):
        if term in following or (term == "stress" and "virial" in following):
            message = f"{term} has prefactors too"
            yield Finding(f"{where}/{term}_coeff", f"{message}; remove one of the two")


def _losses(context: Context) -> Iterator[tuple[str, Task, TaskLoss]]:
    """Place, task and content of every loss of a known task."""
    control = context.reading.control
    tasks = tasks_of(control)
    for name, task in tasks.items():
        if task.loss is not None:
            yield f"/tasks/{name}/loss", task, task.loss
    for i, entry in enumerate(control.stage_options.task_loss or ()):
        for name, loss in (entry or {}).items():
            if loss is not None and name in tasks:
                yield f"{OPTIONS}/task_loss/{i}/{name}", tasks[name], loss


@rule(*STAGE_KEYS)
def _with_rate(context: Context) -> Iterator[Finding]:
    """What follows the learning rate, or is one, needs a stage that has it."""
    control = context.reading.control
    entries = control.stage_options.task_loss or ()
    for i, stage in planned(context):
        if stage.optimizer in WITH_RATE:
            continue
        no_rate = f"{stage.name} is {stage.optimizer}, which has no learning rate"
        for name, task in stage.active().items():
            own = (entries[i] or {}).get(name) if i < len(entries) else None
            if task.lr is not None and own is not None and own.lr is not None:
                where = f"{OPTIONS}/task_loss/{i}/{name}/lr"
                yield Finding(where, f"{no_rate}; remove it, or set optimizer to adam")
            if task.prefactors is None:
                continue
            where = f"/tasks/{name}/loss/prefactors"
            if own is not None and own.prefactors is not None:
                where = f"{OPTIONS}/task_loss/{i}/{name}/prefactors"
            yield Finding(
                where, f"{no_rate}; set optimizer to adam, or give coefficients for this stage"
            )


@rule(*STAGE_KEYS)
def _some_coefficient(context: Context) -> Iterator[Finding]:
    """Every task that takes part in a stage has something to minimise there."""
    named = context.reading.control.tasks.named
    found: dict[tuple[str, str], list[str]] = {}
    for i, stage in planned(context) if named else ():
        for name, task in stage.active().items():
            if task.coefficients is not None and not any(task.coefficients.values()):
                found.setdefault((_place(context, i, name), name), []).append(stage.name)
    for (where, name), stages in found.items():
        message = f"in {', '.join(stages)} all coefficients of {name} are 0"
        yield Finding(where, f"{message}; make one positive, or give it the weight 0 there")


def _place(context: Context, i: int, name: str) -> str:
    """Where the loss of a task in a stage stands."""
    entries = context.reading.control.stage_options.task_loss or ()
    if i < len(entries) and (entries[i] or {}).get(name) is not None:
        return f"{OPTIONS}/task_loss/{i}/{name}"
    return f"/tasks/{name}/loss"


@rule(*STAGE_KEYS)
def _calibration(context: Context) -> Iterator[Finding]:
    """Calibration sets coefficients from the log of the stage before."""
    stages = [stage for _, stage in planned(context)]
    entries = context.reading.control.stage_options.task_loss or ()
    if not stages or stages[-1].name != "calibration":
        return
    if len(entries) == len(stages):
        for name, loss in (entries[-1] or {}).items():
            for key in sorted((loss.model_fields_set if loss else set()) - OF_CALIBRATION):
                message = "calibration sets coefficients itself"
                where = f"{OPTIONS}/task_loss/{len(stages) - 1}/{name}/{key}"
                yield Finding(where, f"{message}; remove it")
    yield from _logged(context, *stages[-2:])


def _logged(context: Context, before: Stage, calibration: Stage) -> Iterator[Finding]:
    """The errors that calibration needs are in the log of the stage before."""
    options = context.reading.control.stage_options
    for name, task in calibration.active().items():
        last = before.tasks[name]
        if name not in before.active():
            where = f"{OPTIONS}/task_weight/{len(options.task_weight or options.task_epochs) - 1}"
            message = f"calibration needs the log of {before.name}, where {name} is idle"
            advice = "give it a weight there, or 0 in calibration"
            yield Finding(f"{where}/{name}", f"{message}; {advice}")
        elif task.loss == "huber" and (last.loss, last.huber_delta) != ("huber", task.huber_delta):
            where = f"{OPTIONS}/task_loss/{len(options.task_loss or (None,)) - 1}/{name}"
            message = f"calibration by huber needs {before.name} with the same loss and huber_delta"
            yield Finding(where, f"{message}; use mse or l1, or make them equal")
