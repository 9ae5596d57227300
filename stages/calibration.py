"""Loss coefficients that make energy, forces and stress contribute as they should.

The last epochs of the previous stage say how large each unweighted term is. Each coefficient is its
target share of the weighted loss at that point, divided by the term: the loss as a whole, and with
it the scale of the gradient, goes on as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mtp.errors import InvalidInput
from stages.plan import TERMS, Coefficients, Plan, Stage

WINDOW = 20
"""One in so many epochs, the last ones of the previous stage, is averaged."""

FLOORS = {"energy": 1e-8, "forces": 1e-6, "stress": 1e-12}
"""Mean squared errors below this (eV²/atom², eV²/Å², eV²/Å⁶) count as this: a perfect fit."""

EQUAL = Coefficients(1.0, 1.0, 1.0)


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

    log: lines of log.jsonl.  previous: name of the stage before.  loss: "mse" or "l1", that of the
    calibration stage, whatever the previous one minimised.  target: ratio of the shares of energy,
    forces and stress, equal if None.  A term without labels has no key in the log and gets 0.
    Raises InvalidInput when the log has no line of the stage, when the stage before weighted no
    labelled term, or when no labelled term has a target.
    """
    window = last_epochs(log, previous)
    if not window:
        raise InvalidInput(
            f"calibration: the log has no epoch of {previous}; train that stage first"
        )
    before = _coefficients(window[-1], task)
    losses = _means([line["train"][task] for line in window], loss)
    floors = {term: floor(term, loss) for term in losses}
    guarded = {term: max(losses[term], floors[term]) for term in losses}
    target_shares = _shares(asdict(target or EQUAL), losses)
    whole = sum(before[term] * guarded[term] for term in guarded)
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
                "coefficient_before": before[term],
                "coefficient_after": after[term],
                "share_before": before[term] * guarded[term] / whole,
                "share_after": after[term] * guarded[term] / whole,
                "target": target_shares[term],
            }
            for term in guarded
        },
    }
    return Calibration(Coefficients(*(after.get(term, 0.0) for term in TERMS)), table)


def last_epochs(log: Sequence[Mapping[str, Any]], stage: str) -> list[Mapping[str, Any]]:
    """The last lines of a stage: 5 % of its epochs, at least one; epoch 0 is no epoch."""
    lines = [line for line in log if line["name"] == stage and line["epoch"] > 0]
    return lines[-max(1, len(lines) // WINDOW) :]


def floor(term: str, loss: str) -> float:
    """The value below which a term counts as a perfect fit, in the unit of the loss."""
    return FLOORS[term] if loss == "mse" else FLOORS[term] ** 0.5


def calibrated_stage(
    plan: Plan, stage: Stage, log: Sequence[Mapping[str, Any]]
) -> tuple[Stage, dict[str, Any]]:
    """The calibration stage with its coefficients, and the content of calibration.json."""
    previous = plan.stages[plan.stages.index(stage) - 1].name
    found = {
        task: calibrate(log, previous, task, wanted.loss, stage.calibration_target)
        for task, wanted in stage.tasks.items()
    }
    tasks = {
        task: replace(wanted, coefficients=found[task].coefficients)
        for task, wanted in stage.tasks.items()
    }
    return replace(stage, tasks=tasks), {task: one.table for task, one in found.items()}


def _coefficients(line: Mapping[str, Any], task: str) -> dict[str, float]:
    """Coefficients of a log line, which stand per task where there are several."""
    coefficients = line["coeff"]
    return coefficients[task] if isinstance(coefficients.get(task), Mapping) else coefficients


def _means(rows: Sequence[Mapping[str, float]], loss: str) -> dict[str, float]:
    """Term → mean of its logged values; terms without labels are absent."""
    keys = {term: f"{term}_{loss}" for term in TERMS}
    return {
        term: sum(row[key] for row in rows) / len(rows)
        for term, key in keys.items()
        if key in rows[-1]
    }


def _shares(target: Mapping[str, float], losses: Mapping[str, float]) -> dict[str, float]:
    """The target over the terms that have labels, adding up to 1; empty when it is zero there."""
    whole = sum(target[term] for term in losses)
    return {term: target[term] / whole for term in losses} if whole else {}
