"""Stage lists of a control file → the sequence of stages, calibration last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stages.control.defaults import (
    CALIBRATION_EPOCHS,
    CALIBRATION_LR,
    LISTS,
    RATIO,
    TASK,
    default_stages,
    default_trainable,
    stage,
    step_size,
)
from stages.control.schema import ControlFile, MultistageConfig, StageOptions, Target
from stages.plan import Schedule, Stage, coefficients

UNUSED = {"weight_decay": 0.0, "gradient_clip": None, "ema": None}
"""Options of adam where another optimiser replaces it."""


def stage_sequence(control: ControlFile) -> tuple[Stage, ...]:
    """The stages of a control file in order, calibration last.

    The lists must have passed stages/control/conflicts.py; ValueError otherwise.
    """
    section = control.multistage_config
    listed = bool(given_lists(section))
    *stages, calibration = _listed_stages(section) if listed else default_stages()
    calibration = replace(
        calibration,
        lr=section.calibration_lr or calibration.lr,
        epochs=section.calibration_epoch or calibration.epochs,
    )
    count = len(stages)
    stages = [*stages, calibration] if section.use_calib_stage else stages
    stages = _with_options(stages, count, control.stage_options)
    if control.common_config.total_epoch is not None:
        epochs = share_epochs(control.common_config.total_epoch, _epoch_weights(stages, count))
        stages = [replace(one, epochs=n) for one, n in zip(stages, epochs, strict=True)]
    return tuple(replace(one, schedule=_schedule(one, control, listed)) for one in stages)


def given_lists(section: MultistageConfig) -> dict[str, list]:
    """The stage lists that the file gives, by name; null is not given."""
    lists = {name: getattr(section, name) for name in LISTS}
    return {name: values for name, values in lists.items() if values is not None}


def stage_count(section: MultistageConfig) -> int | None:
    """Number of stages without calibration; None when the lists do not agree on it."""
    given = given_lists(section)
    if not given:
        return len(default_stages()) - 1
    lengths = {len(values) for values in (LISTS | given).values()}
    return lengths.pop() if len(lengths) == 1 else None


def share_epochs(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` shared out in proportion to the weights by largest remainder, at least 1 each.

    Raises ValueError when there are fewer epochs than shares.
    """
    if total < len(weights):
        raise ValueError(f"{total} epochs cannot be shared by {len(weights)} stages")
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    while min(shares) == 0:
        shares[shares.index(max(shares))] -= 1
        shares[shares.index(0)] += 1
    return shares


def _listed_stages(section: MultistageConfig) -> list[Stage]:
    """One Stage per entry of the lists, then calibration; after this no parallel lists exist."""
    lists = LISTS | given_lists(section)
    stages = [
        stage(f"stage{i}", epochs, lr, coefficients(energy, forces, stress), loss)
        for i, (lr, epochs, energy, forces, stress, loss) in enumerate(
            zip(*(lists[name] for name in LISTS), strict=True), start=1
        )
    ]
    last_loss = stages[-1].tasks[TASK].loss
    return [*stages, stage("calibration", CALIBRATION_EPOCHS, CALIBRATION_LR, None, last_loss)]


def _with_options(stages: list[Stage], count: int, options: StageOptions) -> list[Stage]:
    """The stages with the entries of stage_options; calibration repeats the last entry."""
    changed = []
    for i, one in enumerate(stages):
        entry = {
            name: values[min(i, len(values) - 1)]
            for name in StageOptions.model_fields
            if isinstance(values := getattr(options, name), list)
        }
        changed.append(_with_entry(one, {k: v for k, v in entry.items() if v is not None}))
    if len(changed) > count:
        changed[-1] = _with_target(changed[-1], options.calibration_target)
    return changed


def _with_entry(one: Stage, entry: dict) -> Stage:
    """A stage changed by its entries of the lists of stage_options; None is left out before."""
    weighting = entry.pop("energy_weighting", None)
    if weighting is not None and one.tasks[TASK].coefficients is not None:
        tasks = {k: replace(task, energy_weighting=weighting) for k, task in one.tasks.items()}
        one = replace(one, tasks=tasks)
    optimizer = entry.get("optimizer", one.optimizer)
    if optimizer != one.optimizer:  # what belonged to the other one goes with it
        one = replace(one, trainable=default_trainable(optimizer), **UNUSED)
    if "trainable" in entry:
        entry["trainable"] = tuple(entry["trainable"])
    return replace(one, **entry)


def _with_target(calibration: Stage, target: Target | None) -> Stage:
    """Calibration with the shares asked for, its own, or equal ones."""
    if target is None and calibration.calibration_target is not None:
        return calibration
    ratio = Target() if target is None else target
    shares = coefficients(ratio.energy, ratio.forces, ratio.stress)
    return replace(calibration, calibration_target={TASK: shares})


def _epoch_weights(stages: Sequence[Stage], count: int) -> Sequence[float]:
    """How total_epoch is shared: 1 : 2 (: 1) by two stages, else like the epochs of the lists."""
    return RATIO[: len(stages)] if count == 2 else [one.epochs for one in stages]


def _schedule(one: Stage, control: ControlFile, listed: bool) -> Schedule:
    """The schedule of a stage; where the file is silent a default stage keeps its own."""
    common, run = control.common_config, control.run_config
    own = one.schedule
    kind = (common.lr_scheduling or "none").lower()
    return Schedule(
        kind=kind if listed or "lr_scheduling" in common.model_fields_set else own.kind,
        step_size=common.scheduler_step_size or step_size(one.epochs),
        gamma=run.scheduler_gamma if "scheduler_gamma" in run.model_fields_set else own.gamma,
        min_ratio=run.lr_min_ratio if "lr_min_ratio" in run.model_fields_set else own.min_ratio,
    )
