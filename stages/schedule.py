"""Learning rate at every step of a stage."""

from __future__ import annotations

from stages.plan import Stage


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
    total = stage.epochs * steps_per_epoch
    warm = min(schedule.step_size * steps_per_epoch, total)
    done = (epoch - 1) * steps_per_epoch + step + 1
    if done <= warm:
        return stage.lr * (done / warm)
    left = (total + 1 - done) / (total + 1 - warm)
    return stage.lr * (schedule.min_ratio + (1.0 - schedule.min_ratio) * left)
