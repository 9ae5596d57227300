"""Whether a run ended better than it started, by its own log and its own validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtp.structure import Structure
from mtp.terms import TERMS
from stages.calibration import coefficients_of
from stages.predictions import Predictions

TRAINED = (
    "train with a smaller rate, a pull towards the start or more data, or keep the model it "
    "started from"
)
IDLE = (
    "it is idle in {stage}, where what it shares moved: give it a weight there, or let only the "
    "heads of the others move (trainable)"
)


def worse_than_start(
    log: Sequence[Mapping[str, Any]],
    stage: str,
    epoch: int,
    ends: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """One line for every task whose validation loss is larger than before the first step.

    log: lines of log.jsonl.  stage, epoch: where the best model stands.  ends: task → what
    `squared_errors` gives, for tasks that are idle there: what they share may have moved. Both
    losses are mean squared errors with the coefficients of the task's last epoch.
    """
    position = next(
        i for i, line in enumerate(log) if (line["name"], line["epoch"]) == (stage, epoch)
    )
    lines = []
    for task, before in log[0]["valid"].items():
        last = next(line for line in reversed(log[: position + 1]) if task in line["valid"])
        idle = last is not log[position]
        weights = coefficients_of(last, task)
        losses = [
            _loss(weights, one) for one in (before, ends[task] if idle else last["valid"][task])
        ]
        if losses[1] > losses[0]:
            advice = (IDLE if idle else TRAINED).format(stage=stage)
            lines.append(
                f"{task}: the validation loss is {losses[1] / losses[0]:.3g} times that before the "
                f"first step: this run made the model worse; {advice}"
            )
    return lines


def squared_errors(predictions: Predictions, frames: Sequence[Structure]) -> dict[str, float]:
    """Mean squared errors of a model on frames, weighted as the log's, by the log's names."""
    frame = np.array([structure.weight for structure in frames])
    found = {}
    for term in predictions.predicted:
        errors = predictions.errors(term)
        weights = frame[predictions.structure_of_atom] if TERMS[term].rows == "atom" else frame
        squares = np.square(errors.reshape(len(errors), -1))
        there = np.isfinite(squares)
        whole = (there.T * weights).sum()
        if whole > 0:
            found[f"{term}_mse"] = float((np.where(there, squares, 0.0).T * weights).sum() / whole)
    return found


def _loss(weights: Mapping[str, float], terms: Mapping[str, float]) -> float:
    return sum(w * terms.get(f"{term}_mse", 0.0) for term, w in weights.items())
