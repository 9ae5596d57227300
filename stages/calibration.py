"""Loss coefficients that make the terms of a task, and the tasks, contribute as they should.

The last epochs of the previous stage say how large each unweighted term is. Each coefficient is its
target share of the weighted loss at that point, divided by the term: the loss as a whole, and with
it the scale of the gradient, goes on as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mtp.errors import InvalidInput
from stages.plan import Coefficients, Plan, Stage

WINDOW = 20
"""One in so many epochs, the last ones of the previous stage, is averaged."""

FLOORS = {
    "energy": 1e-8,
    "forces": 1e-6,
    "stress": 1e-12,
    "dipole": 1e-12,
    "atomic_dipole": 1e-12,
    "polarizability": 1e-12,
    "atomic_polarizability": 1e-12,
}
"""Mean squared errors below this (square of the logged error's unit) count as a perfect fit."""


@dataclass(frozen=True)
class Calibration:
    """Coefficients of the calibration stage, and for calibration.json where they come from."""

    coefficients: Coefficients
    table: dict[str, Any]


def calibrate(
    log: Sequence[Mapping[str, Any]],
    previous: str,
    task: str,
    loss: str,
    target: Coefficients | None = None,
) -> Calibration:
    """Coefficients of one task (head) from the log of the stage before.

    log: lines of log.jsonl.  previous: name of the stage before.  loss: that of the calibration
    stage, whatever the previous one minimised.  target: ratio of the shares of the terms, equal if
    None.  A term without labels has no key in the log and gets 0.
    Raises InvalidInput when the log has no line of the stage, when the stage before weighted no
    labelled term, or when no labelled term has a target.
    """
    window = last_epochs(log, previous)
    if not window:
        raise InvalidInput(
            f"calibration: the log has no epoch of {previous}; train that stage first"
        )
    before = coefficients_of(window[-1], task)
    losses = _means([line["train"][task] for line in window], loss)
    floors = {term: floor(term, loss) for term in losses}
    guarded = {term: max(losses[term], floors[term]) for term in losses}
    target_shares = _shares(target or dict.fromkeys(losses, 1.0), losses)
    whole = sum(before.get(term, 0.0) * guarded[term] for term in guarded)
    if not target_shares or whole == 0.0:
        which = "target" if not target_shares else f"coefficient in {previous}"
        raise InvalidInput(
            f"calibration of {task}: no term with labels ({', '.join(losses) or 'none'}) has a "
            f"positive {which}; make one positive"
        )
    after = {term: target_shares[term] * whole / guarded[term] for term in guarded}
    table = {
        "previous_stage": previous,
        "epochs": [line["epoch"] for line in window],
        "loss": loss,
        "weighted_loss": whole,
        "terms": {
            term: {
                "loss": losses[term],
                "at_floor": losses[term] < floors[term],
                "coefficient_before": before.get(term, 0.0),
                "coefficient_after": after[term],
                "share_before": before.get(term, 0.0) * guarded[term] / whole,
                "share_after": after[term] * guarded[term] / whole,
                "target": target_shares[term],
            }
            for term in guarded
        },
    }
    return Calibration(dict.fromkeys(before, 0.0) | after, table)


def last_epochs(log: Sequence[Mapping[str, Any]], stage: str) -> list[Mapping[str, Any]]:
    """The last lines of a stage: 5 % of its epochs, at least one; epoch 0 is no epoch."""
    lines = [line for line in log if line["name"] == stage and line["epoch"] > 0]
    return lines[-max(1, len(lines) // WINDOW) :]


def floor(term: str, loss: str) -> float:
    """The value below which a term counts as a perfect fit, in the unit of the loss."""
    return FLOORS[term] ** 0.5 if loss == "l1" else FLOORS[term]


def calibrated_stage(
    plan: Plan, stage: Stage, log: Sequence[Mapping[str, Any]], shares: Mapping[str, float]
) -> tuple[Stage, dict[str, Any]]:
    """The calibration stage with its coefficients, and the content of calibration.json.

    shares: task → its share of the steps of the stage.  Where the stage has a target for the tasks,
    the coefficients of each are scaled so that share · loss of the tasks is as asked for, with the
    same sum.
    """
    previous = plan.stages[plan.stages.index(stage) - 1].name
    active = {task: wanted for task, wanted in stage.active().items() if task in shares}
    found = {
        task: calibrate(
            log, previous, task, wanted.loss, (stage.calibration_target or {}).get(task)
        )
        for task, wanted in active.items()
    }
    factors = _task_factors(stage.task_target, found, shares)
    tasks, tables = dict(stage.tasks), {}
    for task, one in found.items():
        scaled = {term: factors[task] * value for term, value in one.coefficients.items()}
        tasks[task] = replace(stage.tasks[task], coefficients=scaled)
        tables[task] = one.table | ({"factor": factors[task]} if stage.task_target else {})
    return replace(stage, tasks=tasks), tables


def _task_factors(
    target: Coefficients | None, found: Mapping[str, Calibration], shares: Mapping[str, float]
) -> dict[str, float]:
    """What the coefficients of each task are multiplied by."""
    if not target:
        return dict.fromkeys(found, 1.0)
    losses = {task: shares[task] * one.table["weighted_loss"] for task, one in found.items()}
    wanted = sum(target.get(task, 0.0) for task in losses)
    if not wanted:
        raise InvalidInput(
            f"calibration: no task of {', '.join(losses)} has a positive target; make one positive"
        )
    whole = sum(losses.values())
    return {task: target.get(task, 0.0) / wanted * whole / loss for task, loss in losses.items()}


def coefficients_of(line: Mapping[str, Any], task: str) -> dict[str, float]:
    """Coefficients of a log line, which stand per task where there are several."""
    coefficients = line["coeff"]
    return coefficients[task] if isinstance(coefficients.get(task), Mapping) else coefficients


def _means(rows: Sequence[Mapping[str, float]], loss: str) -> dict[str, float]:
    """Term → mean of its logged values; terms without labels are absent."""
    keys = {key.removesuffix(f"_{loss}"): key for key in rows[-1] if key.endswith(f"_{loss}")}
    return {term: sum(row[key] for row in rows) / len(rows) for term, key in keys.items()}


def _shares(target: Mapping[str, float], losses: Mapping[str, float]) -> dict[str, float]:
    """The target over the terms that have labels, adding up to 1; empty when it is zero there."""
    whole = sum(target.get(term, 0.0) for term in losses)
    return {term: target.get(term, 0.0) / whole for term in losses} if whole else {}
