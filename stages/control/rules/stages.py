"""Rules about the six stage lists and the epochs."""

from __future__ import annotations

from collections.abc import Iterator

from stages.control.defaults import LISTS
from stages.control.findings import COUNT_KEYS, LIST_KEYS, STAGES, Context, Finding, planned, rule
from stages.control.sequence import given_lists, stage_count

COEFFICIENTS = ("energy_loss_coeff_list", "forces_loss_coeff_list", "stress_loss_coeff_list")


@rule(*LIST_KEYS)
def _lists_agree(context: Context) -> Iterator[Finding]:
    given = given_lists(context.reading.control.multistage_config)
    lengths = {len(values) for values in given.values()}
    if len(lengths) > 1:
        every = ", ".join(f"{n} {len(given[n]) if n in given else 'not given'}" for n in LISTS)
        yield Finding(
            STAGES, f"the stage lists must have equal length, got {every}; make them equal"
        )
    elif given and 0 not in lengths:
        missing = [name for name in LISTS if name not in given]
        length, default = lengths.pop(), len(LISTS["lr_list"])
        if missing and length != default:
            yield Finding(
                STAGES,
                f"{length} stages, but the defaults of the missing {', '.join(missing)} have "
                f"{default} entries; add {'it' if len(missing) == 1 else 'them'}",
            )


@rule(*COUNT_KEYS)
def _some_stage(context: Context) -> Iterator[Finding]:
    section = context.reading.control.multistage_config
    given = given_lists(section)
    if given and not any(given.values()):
        needs = (
            "calibration needs the log of a previous stage"
            if section.use_calib_stage
            else ("there is nothing to train")
        )
        yield Finding(STAGES, f"the stage lists are empty: {needs}; add a stage or leave them out")


@rule(*(f"multistage_config.{name}" for name in COEFFICIENTS), "tasks")
def _some_term(context: Context) -> Iterator[Finding]:
    """Of a single task; rules/task_losses.py sees to those of several."""
    if context.reading.control.tasks.named:
        return
    given = given_lists(context.reading.control.multistage_config)
    if not given:
        return
    columns = zip(*((LISTS | given)[name] for name in COEFFICIENTS), strict=False)
    for i, stage in enumerate(columns):
        if not any(stage):
            message = f"energy, forces and stress coefficients of stage {i + 1} are all 0"
            yield Finding(STAGES, f"{message}; make one positive")


@rule(*COUNT_KEYS, "common_config.total_epoch", "multistage_config.calibration_epoch")
def _total_epoch(context: Context) -> Iterator[Finding]:
    total = context.reading.control.common_config.total_epoch
    section = context.reading.control.multistage_config
    count = stage_count(section)
    if total is None or not count:
        return
    active = count + section.use_calib_stage
    if total < active:
        yield Finding(
            "/common_config/total_epoch",
            f"must be at least the number of stages, {active}, got {total}; raise it",
        )
        return
    explicit = [
        name for name in ("epoch_list", "calibration_epoch") if getattr(section, name) is not None
    ]
    if explicit:
        epochs = [stage.epochs for _, stage in planned(context)]
        yield Finding(
            "/common_config/total_epoch",
            f"replaces {' and '.join(explicit)}: the stages have {epochs} epochs; give one of the "
            "two",
            "warning",
        )
