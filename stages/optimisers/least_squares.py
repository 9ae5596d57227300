"""The exact ridge solve of the weights that predictions are linear in.

For a linear readout these are all its weights, for a neural network those of its last layer;
species shifts join in when the stage moves them. Everything else stays fixed. Normal equations are
summed over blocks of frames in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from stages.distributed import all_sum, same
from stages.loss import Errors, term_scales
from stages.objective import Evaluation, Objective
from stages.plan import Stage

BLOCK = 2048  # atoms whose rows are in memory at once


class LeastSquares:
    """One step solves every task's linear weights; solving again changes nothing.

    The ridge is relative to the largest eigenvalue of the normal matrix whose columns are scaled to
    a unit diagonal. It pulls weights towards zero and shifts towards where they stand, so that
    directions the data do not determine stay harmless.
    """

    full_batch = True

    def __init__(self, groups: dict[str, list[Parameter]], stage: Stage) -> None:
        self.shifts = {id(p) for p in groups.get("shifts", [])}
        self.ridge = stage.ridge

    def step(self, objective: Objective, lr: float) -> Evaluation:
        """Solve; returns the loss at the solution. The learning rate has no meaning here."""
        heads = {task: objective.potential.heads[task] for task in objective.shares}
        shifts = {task: id(head.shifts) in self.shifts for task, head in heads.items()}
        if not solve(objective, shifts, self.ridge):
            raise objective.not_finite()
        return objective.value()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def solve(
    objective: Objective, shifts: Mapping[str, bool], ridge: float, eliminate: bool = False
) -> bool:
    """Solve for the linear weights of these tasks, and for the shifts of those that are true.

    eliminate: of a network for the linear part only, and the ridge pulls weights, like shifts,
    towards where they stand instead of to zero.
    Returns whether there was anything finite to solve; nothing is changed where there was not.
    """
    for task, its_shifts in shifts.items():
        head = objective.potential.heads[task]
        weight = (head.linear_weights if eliminate else head.weights).detach()  # a view
        matrix, slope = normal_equations(objective, task, its_shifts, network=not eliminate)
        if not (torch.isfinite(slope).all() and torch.isfinite(matrix).all()):
            return False
        origin = torch.zeros_like(slope)
        if not eliminate:
            origin[: weight.numel()] = -weight.detach().double().flatten()
        change = origin + ridge_solve(matrix, -slope - matrix @ origin, ridge)
        same([change])
        with torch.no_grad():
            weight += change[: weight.numel()].view_as(weight)
            if len(change) > weight.numel():
                head.shifts += change[weight.numel() :]
    return True


def normal_equations(
    objective: Objective, task: str, shifts: bool, network: bool = True
) -> tuple[Tensor, Tensor]:
    """Half the derivatives of a task's loss, and what a pull adds to it, by its linear weights.

    Returns the second, (n, n), and the first, (n,), in float64, taken where the parameters stand; n
    counts the linear weights and, with ``shifts``, one shift per species after them.
    network: see `linear_rows`.
    """
    matrix = slope = None
    data = objective.data[task]
    normaliser = data.normaliser(data.counts_on(objective.potential.radial.device))
    for draw, batch in objective.batches(BLOCK):
        if draw.task != task:
            continue
        errors = Errors.of(objective.potential.predict(batch, task), batch)
        columns = objective.potential.linear_rows(batch, task, shifts, network)
        if matrix is None:
            n = next(iter(columns.values())).shape[-1]
            matrix, slope = errors.atoms.new_zeros(n, n), errors.atoms.new_zeros(n)
        for rows, error, weight in _weighted_rows(objective, task, normaliser, errors, columns):
            weighted = rows * weight[:, None]  # (rows, n)
            matrix += rows.T @ weighted
            slope += weighted.T @ error
    matrix, slope = all_sum([matrix, slope])
    head = objective.potential.heads[task]
    weight = (head.weights if network else head.linear_weights).detach().double().flatten()
    for parameter, origin in objective.pulled():
        if parameter is head.last.weight:
            pull = objective.pull / objective.shares[task]  # of the whole loss, not of the task's
            matrix.diagonal()[: len(weight)] += pull
            slope[: len(weight)] += pull * (weight - origin.double().flatten()[-len(weight) :])
    return matrix, slope


def _weighted_rows(
    objective: Objective,
    task: str,
    normaliser: Tensor,
    errors: Errors,
    columns: dict[str, Tensor],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows (rows, n), errors (rows,) and weights (rows,) of each term with a coefficient."""
    plan = objective.stage.tasks[task]
    scale = term_scales(errors.values, normaliser, plan.coefficients)
    for term, error in errors.values.items():
        if float(scale[term]) == 0 or not errors.weights[term].any():
            continue
        factor = errors.factor(term, plan)
        rows = columns[term].double().reshape(*error.shape, -1) * factor[..., None]
        weight = errors.weights[term].repeat_interleave(error.shape[1])
        there = weight > 0
        yield (
            rows.flatten(0, 1)[there],
            (error * factor).flatten()[there],
            scale[term] * weight[there],
        )


def ridge_solve(matrix: Tensor, right: Tensor, ridge: float) -> Tensor:
    """Solution x of (A + ridge · λ_max · D) x = right with D the diagonal of A.

    matrix: (n, n) positive semidefinite.  right: (n,).  λ_max: largest eigenvalue of A scaled to a
    unit diagonal. Components in the null space of A are zero.
    """
    diagonal = matrix.diagonal()
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(matrix * scale * scale[:, None])
    largest = values[-1].clamp_min(torch.finfo(values.dtype).tiny)
    # Eigenvalues below rounding are noise: their directions are left out instead of divided by it.
    kept = values > 10 * len(values) * torch.finfo(values.dtype).eps * largest
    inverse = torch.where(kept, 1.0 / (values + ridge * largest), 0.0)
    return scale * (vectors @ (inverse * (vectors.T @ (scale * right))))
