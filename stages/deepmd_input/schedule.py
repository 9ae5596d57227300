"""Steps, learning rates and probabilities of tasks → one stage."""

from __future__ import annotations

import math
from typing import Any

from stages.deepmd_input.forms import Branch, Form
from stages.deepmd_input.keys import Keys

GUESS = 100
"""Epochs where the data are not at hand to count steps by."""
STEPS = 5000
"""Default of decay_steps."""


def epochs(form: Form, batches: dict[str, int | None]) -> int:
    """Epochs of the stage: an epoch has the batches of all tasks."""
    training = form.training
    steps = training.take("numb_steps", "stop_batch")
    given = training.take("num_epoch", "numb_epoch")
    if given is not None and steps is None:
        return math.ceil(given)
    if steps is None:
        return GUESS
    if None in batches.values():
        missing = ", ".join(name for name, number in batches.items() if number is None)
        training.note(
            "numb_steps",
            f"{steps} steps: the data of {missing} are not there to count batches; {GUESS} epochs "
            "are taken: correct epoch_list",
        )
        return GUESS
    whole = sum(batches.values())
    found = max(1, round(steps / whole))
    training.note("numb_steps", f"{steps} steps are {found} epochs of {whole} steps")
    return found


def task_options(form: Form, systems: dict[str, int]) -> tuple[dict[str, Any], int | None]:
    """Weights or epochs of the tasks for stage_options, and the epochs of the stage that fit.

    systems: how many each task has.
    """
    names, tasks = form.names, list(systems)
    if form.version == 1:
        return {}, None
    if form.version == 3 and "num_epoch_dict" in form.training:
        given = form.training.take("num_epoch_dict")
        found = {names[name]: value for name, value in given.items() if names.get(name) in tasks}
        return {"task_epochs": [found]}, math.ceil(max(found.values()))
    weights = _weights(form, systems)
    return {"task_weight": [{name: weights.get(name, 0) for name in tasks}]}, None


def _weights(form: Form, systems: dict[str, int]) -> dict[str, float]:
    """Probabilities of the tasks; where they are not given, equal or by number of systems."""
    key = "fitting_weight" if form.version == 2 else "model_prob"
    given = form.training.take(key)
    if given is None and form.version == 2:
        return dict.fromkeys(systems, 1)
    if given is None:
        return dict(systems)
    names, found = form.names, {}
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in names and number and value > 0:
            found[names[name]] = value
        elif name in names:
            form.training.note(f"{key}/{name}", f"{value!r}: the task is idle")
    return found


class Rate:
    """A learning rate: start, end and how it goes down."""

    def __init__(self, section: Keys, branch: Branch | None = None) -> None:
        self.section = section
        self.kind = section.take("type", default="exp")
        self.start = float(section.take("start_lr", default=1e-3))
        ratio = section.take("stop_lr_ratio")
        self.stop = float(
            section.take("stop_lr", default=self.start * ratio if ratio is not None else 1e-8)
        )
        self.steps = section.take("decay_steps", default=STEPS)
        self.factor = section.take("decay_rate")
        self.warmup = section.take("warmup_steps", default=0)
        section.close()


def rates(form: Form) -> tuple[Rate, dict[str, float]]:
    """The learning rate of the stage, and the tasks that start with another one."""
    common = form.root.section("learning_rate")
    own = {b.name: Rate(b.rate) for b in form.branches if b.rate is not None}
    first = next(iter(own.values())) if own and not common.data else Rate(common)
    for name, rate in own.items():
        if (rate.kind, rate.steps, rate.stop / rate.start) != (
            first.kind,
            first.steps,
            first.stop / first.start,
        ):
            rate.section.note("decay", f"{name} follows the curve of the first task here")
    return first, {name: rate.start for name, rate in own.items() if rate.start != first.start}


def schedule(rate: Rate, number: int, per_epoch: int | None) -> tuple[dict, dict]:
    """The curve as keys of common_config and run_config. number: epochs of the stage."""
    if rate.kind != "exp":
        rate.section.note("type", f"{rate.kind!r} becomes linear_warmup down to the same end")
    if rate.kind == "exp" and not rate.warmup:
        return _exponential(rate, number, per_epoch)
    if rate.kind == "exp":
        rate.section.note("warmup_steps", "with warm-up the rate goes down in a straight line here")
    warm = max(1, round(rate.warmup / per_epoch)) if per_epoch else 1
    common = {"lr_scheduling": "linear_warmup", "scheduler_step_size": warm}
    return common, {"lr_min_ratio": min(1.0, rate.stop / rate.start)}


def _exponential(rate: Rate, number: int, per_epoch: int | None) -> tuple[dict, dict]:
    """Steps down of equal ratio, ten or more: the curve of decay_rate, or the one to stop_lr.

    The end of the curve counts, on which prefactors reach their limits.
    """
    wanted = round(rate.steps / per_epoch) if per_epoch else 1
    step = max(1, min(wanted, number // 10))
    if rate.factor is not None and per_epoch:
        gamma = rate.factor ** (step * per_epoch / rate.steps)
    else:
        gamma = (rate.stop / rate.start) ** (step / number)
    common = {"lr_scheduling": "step", "scheduler_step_size": step}
    return common, {"scheduler_gamma": min(1.0, gamma)}
