"""Rules about stages × tasks: weights, epochs, what moves, targets of calibration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from stages.control.findings import (
    OPTIONS,
    STAGE_KEYS,
    Context,
    Finding,
    meant,
    option_lists,
    planned,
    rule,
)
from stages.control.heads import tasks_of, terms_of
from stages.control.rules.tasks import loads
from stages.control.sections.tasks import Task
from stages.control.task_sequence import by_task, entry_of
from stages.plan import GROUPS, LINEAR, WITH_RATE, Stage

SHARES = ("task_weight", "task_epochs")
PARTS = ("readout", LINEAR, "shifts")
"""Groups that each head has."""


@rule(*STAGE_KEYS)
def _known_tasks(context: Context) -> Iterator[Finding]:
    """Every task that stage_options names is there."""
    control = context.reading.control
    options, known = control.stage_options, list(tasks_of(control))
    places = [
        (f"{OPTIONS}/{key}/{i}", entry)
        for key in (*SHARES, "task_loss")
        for i, entry in enumerate(getattr(options, key) or ())
    ]
    if by_task(options.calibration_target):
        places.append((f"{OPTIONS}/calibration_target", options.calibration_target))
    for place, entry in (*places, (f"{OPTIONS}/task_target", options.task_target)):
        for name in set(entry or ()) - set(known):
            yield Finding(f"{place}/{name}", f"there is no task {name!r}; {meant(name, known)}")


@rule(*STAGE_KEYS)
def _shares(context: Context) -> Iterator[Finding]:
    """Some task takes part in every stage, by weight or by epochs."""
    options = context.reading.control.stage_options
    for key in SHARES:
        for i, entry in enumerate(getattr(options, key) or ()):
            if entry is not None and not any(entry.values()):
                message = f"no task takes part, got {json.dumps(entry)}"
                yield Finding(f"{OPTIONS}/{key}/{i}", f"{message}; make one positive")
    for i, stage in planned(context):
        if i >= len(options.task_epochs or ()) or options.task_epochs[i] is None:
            continue
        where = f"{OPTIONS}/task_epochs/{i}"
        if entry_of(options.task_weight, i):
            message = f"{stage.name} has task_weight too"
            yield Finding(where, f"{message}; give one of the two, the other null")
        if stage.optimizer not in WITH_RATE:
            message = f"{stage.name} is {stage.optimizer}, which takes all structures at once"
            yield Finding(where, f"{message}; use task_weight, or set optimizer to adam")


@rule(*STAGE_KEYS)
def _idle(context: Context) -> Iterator[Finding]:
    """Tasks that do not take part: on purpose (0, null) or perhaps forgotten."""
    options = context.reading.control.stage_options
    stages = planned(context)
    for name in tasks_of(context.reading.control):
        idle: dict[str, list[str]] = {"warning": [], "note": []}
        for i, stage in stages:
            if stage.tasks[name].weight == 0:
                entry = entry_of(options.task_epochs, i) or entry_of(options.task_weight, i)
                idle["note" if name in entry else "warning"].append(stage.name)
        key = "task_epochs" if options.task_epochs else "task_weight"
        for level, names in idle.items():
            if names:
                where = "has no weight" if level == "warning" else "is idle"
                advice = "; write 0 if that is meant" if level == "warning" else ""
                message = f"task {name} {where} in {', '.join(names)}: it is not trained there"
                yield Finding(f"{OPTIONS}/{key}", f"{message}{advice}", level)


@rule(*STAGE_KEYS)
def _trainable(context: Context) -> Iterator[Finding]:
    """Entries of trainable name groups or tasks, each once, and one of them moves."""
    control = context.reading.control
    names = list(tasks_of(control))
    known = [*GROUPS, LINEAR, *names, *(f"{name}.{part}" for name in names for part in PARTS)]
    embedded = control.tasks.type_embedding is not None or loads(context)
    lists = option_lists(control).get("trainable", ())
    for i, groups in enumerate(lists):
        where = f"{OPTIONS}/trainable/{i}"
        if groups is not None and (not groups or len(set(groups)) < len(groups)):
            message = f"must name groups, each once, got {json.dumps(groups)}"
            yield Finding(where, f"{message}; null means all")
        for k, group in enumerate(groups or ()):
            if group not in known:
                message = f"there is nothing named {group!r}"
                yield Finding(f"{where}/{k}", f"{message}; {meant(group, known)}")
            elif group == "type_embedding" and not embedded:
                message = 'there is no type embedding; add "type_embedding": {} to tasks'
                yield Finding(f"{where}/{k}", f"{message}, or remove it")
    for i, stage in planned(context):
        if i < len(lists) and set(stage.trainable) <= set(known):
            yield from _moves(i, stage, tasks_of(control))


def _moves(i: int, stage: Stage, tasks: dict[str, Task]) -> Iterator[Finding]:
    """What moves belongs to the whole or to a task that takes part, and moves each of these."""
    where, moving = f"{OPTIONS}/trainable/{i}", set(stage.trainable)
    whole = {*GROUPS, LINEAR}
    heads = {group.split(".")[0] for group in moving} - whole
    if moving and not moving & whole and not heads & set(stage.active()):
        message = f"nothing moves: {', '.join(sorted(heads))} is idle in {stage.name}"
        yield Finding(where, f"{message}; give it a weight, or move more")
        return
    if moving & whole:
        return
    for name in stage.active():
        if name not in heads and not any(tasks[name].layer_name or ()):
            message = f"task {name} takes part in {stage.name}, where nothing of it moves"
            yield Finding(
                where, f"{message}; give it the weight 0 there, or name it here", "warning"
            )


@rule(*STAGE_KEYS)
def _targets(context: Context) -> Iterator[Finding]:
    """Shares that calibration aims at."""
    control = context.reading.control
    options, tasks = control.stage_options, tasks_of(control)
    for key in ("calibration_target", "task_target"):
        if getattr(options, key) is not None and not control.multistage_config.use_calib_stage:
            message = "there is no calibration stage; remove it"
            yield Finding(f"{OPTIONS}/{key}", message, "warning")
    target = options.calibration_target
    for name, task in tasks.items():
        own = by_task(target)
        place = f"{OPTIONS}/calibration_target" + (f"/{name}" if own else "")
        yield from _target(place, terms_of(task), target.get(name) if own else target, own)
    stages = planned(context)
    if options.task_target is None or not stages or stages[-1][1].name != "calibration":
        return
    for name in stages[-1][1].active():
        if not options.task_target.get(name):
            message = f"task {name} has no share of the loss of calibration"
            advice = "make it positive, or give the task the weight 0 there"
            yield Finding(f"{OPTIONS}/task_target", f"{message}; {advice}")


def _target(
    place: str, terms: tuple[str, ...], target: Mapping[str, float] | None, own: bool
) -> Iterator[Finding]:
    for term in set(target or ()) - set(terms) if own else ():
        yield Finding(f"{place}/{term}", f"the task has {', '.join(terms)}; remove it")
    if target is not None and not any(target.get(term, 1.0) for term in terms):
        yield Finding(place, f"the shares of {', '.join(terms)} are all 0; make one positive")


@rule(*STAGE_KEYS, "run_config.task_draw")
def _draw(context: Context) -> Iterator[Finding]:
    control, stages = context.reading.control, planned(context)
    if control.run_config.task_draw == "shares" or not stages:
        return
    if len(tasks_of(control)) == 1:
        why = "there is one task"
    elif not any(stage.optimizer in WITH_RATE for _, stage in stages):
        why = "no stage is adam, and the others take all structures at once"
    else:
        return
    yield Finding("/run_config/task_draw", f"has no effect: {why}; remove it", "warning")
