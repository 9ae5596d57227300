"""Stage lists of a control file → the sequence of stages, calibration last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pretrained.registry import card, names
from stages.control.defaults import (
    CALIBRATION_EPOCHS,
    CALIBRATION_LR,
    LISTS,
    PULL,
    RATIO,
    TASK,
    default_stages,
    default_trainable,
    stage,
    step_size,
)
from stages.control.heads import new_head, tasks_of
from stages.control.loaded import Loaded
from stages.control.schema import ControlFile
from stages.control.sections.lightpfp import MultistageConfig
from stages.control.sections.options import StageOptions
from stages.control.task_sequence import entry_of, with_tasks
from stages.plan import Schedule, Stage, coefficients

UNUSED = {"weight_decay": 0.0, "gradient_clip": None, "ema": None, "pull": 0.0}
"""Options of adam where another optimiser replaces it."""
OF_STAGE = ("optimizer", "trainable", "weight_decay", "gradient_clip", "ema", "pull", "ridge")
"""Lists of stage_options that have the names of fields of Stage."""


def stage_sequence(control: ControlFile, start: Loaded | None) -> tuple[Stage, ...]:
    """The stages of a control file in order, calibration last.

    start: the trained model that the run starts from.
    The lists must have passed stages/control/conflicts.py; ValueError otherwise.
    """
    section = control.multistage_config
    listed = bool(given_lists(section))
    if listed:
        *stages, calibration = _listed_stages(section)
    else:
        networks = any(new_head(control, *one).hidden for one in tasks_of(control).items())
        *stages, calibration = default_stages(_pull(control, start), networks)
    calibration = replace(
        calibration,
        lr=section.calibration_lr or calibration.lr,
        epochs=section.calibration_epoch or calibration.epochs,
    )
    count = len(stages)
    stages = [*stages, calibration] if section.use_calib_stage else stages
    stages = [_with_entry(one, i, control.stage_options) for i, one in enumerate(stages)]
    stages = with_tasks(stages, control)
    if control.common_config.total_epoch is not None:
        epochs = share_epochs(control.common_config.total_epoch, _epoch_weights(stages, count))
        stages = [replace(one, epochs=n) for one, n in zip(stages, epochs, strict=True)]
    return tuple(replace(one, schedule=_schedule(one, control, listed)) for one in stages)


def _pull(control: ControlFile, start: Loaded | None) -> float | None:
    """The default pull towards the loaded model; None where there is none."""
    if start is None:
        return None
    name = control.mtp_config.pretrained_model
    if name and name in names():
        return PULL["network" if card(name).basis["nn_dim_list"] else "linear"]
    return PULL["reload_model"]


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


def _with_entry(one: Stage, i: int, options: StageOptions) -> Stage:
    """A stage changed by its entries of the lists of stage_options; null changes nothing."""
    entry = {
        name: value
        for name in OF_STAGE
        if (value := entry_of(getattr(options, name), i)) is not None
    }
    task = one.tasks[TASK]
    if options.energy_weighting and task.coefficients is not None:
        weighting = entry_of(options.energy_weighting, i) or task.energy_weighting
        one = replace(one, tasks={TASK: replace(task, energy_weighting=weighting)})
    optimizer = entry.get("optimizer", one.optimizer)
    if optimizer != one.optimizer:  # what belonged to the other one goes with it
        one = replace(one, trainable=default_trainable(optimizer), **UNUSED)
    if "trainable" in entry:
        entry["trainable"] = tuple(entry["trainable"])
    return replace(one, **entry)


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
