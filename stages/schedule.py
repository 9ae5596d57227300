"""Learning rate, and coefficients that follow it, at every step of a stage."""

from __future__ import annotations

from dataclasses import replace

from stages.plan import Stage, TaskStage


def learning_rate(stage: Stage, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Learning rate of one step; each stage's schedule starts anew.

    epoch: from 1 to ``stage.epochs``.  step: from 0 within the epoch.
    "step": times gamma after every step_size epochs.  "linear_warmup": in a straight line from 0
    (before the first step) to lr at the last step of the first step_size epochs, then down to
    lr·min_ratio, which it would reach one step after the last.  "none": constant.
    """
    schedule = stage.schedule
    if schedule.kind == "none":
        return stage.lr
    if schedule.kind == "step":
        return stage.lr * schedule.gamma ** ((epoch - 1) // schedule.step_size)
    done, warm, total = _progress(stage, epoch, step, steps_per_epoch)
    if done <= warm:
        return stage.lr * (done / warm)
    left = (total + 1 - done) / (total + 1 - warm)
    return stage.lr * (schedule.min_ratio + (1.0 - schedule.min_ratio) * left)


def decay(stage: Stage, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Learning rate over that of the stage as prefactors see it: 1 during warm-up."""
    if stage.schedule.kind == "linear_warmup":
        done, warm, _ = _progress(stage, epoch, step, steps_per_epoch)
        if done <= warm:
            return 1.0
    return learning_rate(stage, epoch, step, steps_per_epoch) / stage.lr


def with_prefactors(stage: Stage, ratio: float) -> Stage:
    """The stage with the coefficients that its prefactors have at lr/lr0 = ratio."""
    if all(task.prefactors is None for task in stage.tasks.values()):
        return stage
    return replace(stage, tasks={name: _at(task, ratio) for name, task in stage.tasks.items()})


def _at(task: TaskStage, ratio: float) -> TaskStage:
    if task.prefactors is None:
        return task
    values = {term: prefactor.at(ratio) for term, prefactor in task.prefactors.items()}
    return replace(task, coefficients=values)


def _progress(stage: Stage, epoch: int, step: int, steps_per_epoch: int) -> tuple[int, int, int]:
    """Steps done with this one, steps of the warm-up, steps of the stage."""
    total = stage.epochs * steps_per_epoch
    warm = min(stage.schedule.step_size * steps_per_epoch, total)
    return (epoch - 1) * steps_per_epoch + step + 1, warm, total
