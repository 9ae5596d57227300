"""Rules about stage_options."""

from __future__ import annotations

from collections.abc import Iterator

from stages.control.defaults import LISTS, TASK
from stages.control.findings import (
    COUNT_KEYS,
    OPTION_KEYS,
    OPTIONS,
    STAGE_KEYS,
    Context,
    Finding,
    option_lists,
    planned,
    rule,
    unequal_options,
)
from stages.control.sequence import stage_count
from stages.plan import WITH_RATE, Stage

OBEYED = {
    "weight_decay": ("adam",),
    "gradient_clip": ("adam",),
    "ema": ("adam",),
    "pull": ("adam", "lbfgs"),
    "ridge": ("lstsq",),
}
"""Options → the optimisers that obey them."""
RATE_KEYS = (
    ("common_config", "lr_scheduling"),
    ("common_config", "scheduler_step_size"),
    ("multistage_config", "lr_list"),
    ("multistage_config", "calibration_lr"),
    ("run_config", "scheduler_gamma"),
    ("run_config", "lr_min_ratio"),
)


@rule(*OPTION_KEYS)
def _options_agree(context: Context) -> Iterator[Finding]:
    """Lists of stage_options: one length, that of the stages with or without calibration."""
    reading = context.reading
    sound = reading.sound(*COUNT_KEYS)
    count = stage_count(reading.control.multistage_config) if sound else None
    wrong = unequal_options(reading.control, count)
    if wrong:
        yield Finding(OPTIONS, wrong)


@rule(*STAGE_KEYS)
def _squares(context: Context) -> Iterator[Finding]:
    """What lstsq needs to solve normal equations."""
    for i, stage in planned(context):
        if stage.optimizer != "lstsq":
            continue
        for name, task in stage.active().items():
            if task.loss != "mse":
                whose = "the loss" if name == TASK else f"the loss of {name}"
                message = f"lstsq minimises squares, but {whose} in {stage.name} is {task.loss}"
                yield Finding(
                    f"{OPTIONS}/optimizer/{i}", f"{message}; use mse or another optimizer"
                )
        bare = {"descriptor", "type_embedding"} & set(stage.trainable)
        if bare or not _readouts(stage):
            yield Finding(
                f"{OPTIONS}/trainable/{i}",
                f"lstsq moves readout, with or without shifts, got {list(stage.trainable)}; "
                "change it or leave it null",
            )


def _readouts(stage: Stage) -> list[str]:
    """The entries of trainable that let a readout move."""
    return [one for one in stage.trainable if one != "shifts" and not one.endswith(".shifts")]


@rule(*STAGE_KEYS)
def _option_has_effect(context: Context) -> Iterator[Finding]:
    lists = option_lists(context.reading.control)
    for i, stage in planned(context):
        entry = {name: values[i] for name, values in lists.items() if i < len(values)}
        for name, needed in OBEYED.items():
            if entry.get(name) and stage.optimizer not in needed:
                message = f"has no effect with {stage.optimizer}, only with {' or '.join(needed)}"
                yield Finding(f"{OPTIONS}/{name}/{i}", f"{message}; write null")
        weighting = entry.get("energy_weighting") or "per_atom_squared"
        if stage.name == "calibration" and weighting != "per_atom_squared":
            message = f"calibration balances errors per atom squared, got {weighting!r}"
            yield Finding(f"{OPTIONS}/energy_weighting/{i}", f"{message}; write null")


@rule(*STAGE_KEYS, *(f"{section}.{name}" for section, name in RATE_KEYS))
def _learning_rate_has_effect(context: Context) -> Iterator[Finding]:
    """Learning rates that were written although no stage has one."""
    stages = [stage for _, stage in planned(context)]
    if not stages or any(stage.optimizer in WITH_RATE for stage in stages):
        return
    used = "/".join(sorted({stage.optimizer for stage in stages}))
    for section, name in RATE_KEYS:
        part = getattr(context.reading.control, section)
        value = getattr(part, name)
        needed = name == "lr_list" and value and len(value) != len(LISTS[name])  # says how many
        if name in part.model_fields_set and value is not None and not needed:
            message = f"has no effect: every stage is {used}, which has no learning rate"
            yield Finding(
                f"/{section}/{name}", f"{message}; remove it, or set optimizer to adam", "warning"
            )
