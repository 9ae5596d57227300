"""Whether a run ended better than it started, by its own log and its own validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.calibration import coefficients_of


def worse_than_start(log: Sequence[Mapping[str, Any]], stage: str, epoch: int) -> list[str]:
    """One line for every task whose validation loss is larger than before the first step.

    log: lines of log.jsonl.  stage, epoch: where the best model stands. Both losses are mean
    squared errors with the coefficients of that epoch.
    """
    first = log[0]
    best = next(line for line in log if (line["name"], line["epoch"]) == (stage, epoch))
    lines = []
    for task, terms in best["valid"].items():
        before = first["valid"].get(task)
        if before is None:
            continue
        weights = coefficients_of(best, task)
        losses = [_loss(weights, one) for one in (before, terms)]
        if losses[1] > losses[0]:
            lines.append(
                f"{task}: the validation loss is {losses[1] / losses[0]:.3g} times that before the "
                "first step: this run made the model worse; train with a smaller rate, a pull "
                "towards the start or more data, or keep the model it started from"
            )
    return lines


def _loss(weights: Mapping[str, float], terms: Mapping[str, float]) -> float:
    return sum(w * terms.get(f"{term}_mse", 0.0) for term, w in weights.items())
