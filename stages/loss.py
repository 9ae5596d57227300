"""Loss terms: unweighted means of residuals, their weighted sum and its cotangents.

Everything here is float64 and closed form. Each term (energy, forces, stress, dipole, …) is a mean
over what is labelled, weighted by the weight of the structure. Mean squared and mean absolute
errors are always summed, because the log and the calibration need both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtp.terms import TERMS
from stages.plan import Coefficients, TaskStage

if TYPE_CHECKING:
    from mtp.geometry import Batch
    from mtp.potential import Prediction

POWER = {"per_atom_squared": 1.0, "per_atom": 0.5, "total": 0.0}
"""The minimised residual of an extensive term is that of error / atoms**power."""


def residual(kind: str, error: Tensor, delta: float) -> Tensor:
    """mse: error².  l1: |error|.  huber: error²/2 up to delta, then delta·(|error| − delta/2)."""
    if kind == "mse":
        return error.square()
    size = error.abs()
    if kind == "l1":
        return size
    return torch.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta))


def slope(kind: str, error: Tensor, delta: float) -> Tensor:
    """Derivative of `residual` by the error."""
    if kind == "mse":
        return 2.0 * error
    if kind == "l1":
        return error.sign()
    return error.clamp(-delta, delta)


def curvature(kind: str, error: Tensor, delta: float) -> Tensor:
    """Second derivative of `residual`, positive everywhere.

    Where it vanishes, that of the parabola that touches the residual at the error, |slope|/|error|,
    for l1 bounded by the typical error.
    """
    if kind == "mse":
        return torch.full_like(error, 2.0)
    size = error.abs()
    if kind == "l1":
        return 1 / size.clamp_min(float(size.mean().clamp_min(1e-12)))
    return delta / size.clamp_min(delta)


@dataclass(frozen=True)
class Errors:
    """Prediction minus label of one batch, exactly zero where the label is absent.

    values: term → (rows, components), a row per structure or atom, in the units of mtp/terms.py.
    weights: term → (rows,), 0 where absent.  atoms, volume: (S,) of the structures, volume in Å³.
    """

    values: dict[str, Tensor]
    weights: dict[str, Tensor]
    atoms: Tensor
    volume: Tensor

    @classmethod
    def of(cls, prediction: Prediction, batch: Batch) -> Errors:
        values, weights = {}, {}
        weight = batch.weight.double()
        for term, predicted in prediction.values.items():
            present = batch.labelled_rows(term)
            rows = weight[batch.structure] if TERMS[term].rows == "atom" else weight
            shape = (-1, TERMS[term].components)
            error = predicted.double().view(shape) - batch.labels[term].double().view(shape)
            values[term] = torch.where(present[:, None], error, 0.0)
            weights[term] = rows * present
        return cls(
            values,
            weights,
            batch.atoms_per_structure.double(),
            batch.volume.double(),
        )

    def factor(self, term: str, task: TaskStage) -> Tensor:
        """(rows, 1) or a number: what an error is multiplied by before its residual is taken."""
        power = self.atoms[:, None] ** -POWER[task.energy_weighting]
        if TERMS[term].extensive:
            return power
        if term == "stress" and task.virial:
            return power * self.volume[:, None]
        return self.atoms.new_ones(())

    def per_atom(self, term: str) -> Tensor:
        """(rows, components) errors as they are logged: of extensive terms per atom."""
        return self.values[term] / (self.atoms[:, None] if TERMS[term].extensive else 1.0)


def label_counts(batch: Batch, terms: Iterable[str]) -> Tensor:
    """(terms,) how many numbers (not rows) of each term are labelled."""
    rows = [batch.labelled_rows(term).sum() * TERMS[term].components for term in terms]
    return torch.stack(rows).double()


@dataclass(frozen=True)
class Sums:
    """Weighted sums of residuals over any number of batches; ``+`` joins two.

    residuals: kind ("mse", "l1", and "huber" where it is minimised) → (terms,), extensive terms per
    atom.  minimised: (terms,), as the stage weighs them.  weights: (terms,) what the sums are to be
    divided by.  terms: their names.
    """

    residuals: dict[str, Tensor]
    minimised: Tensor
    weights: Tensor
    terms: tuple[str, ...]

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            {kind: one + other.residuals[kind] for kind, one in self.residuals.items()},
            self.minimised + other.minimised,
            self.weights + other.weights,
            self.terms,
        )

    @classmethod
    def of(cls, errors: Errors, task: TaskStage) -> Sums:
        """Sums of one batch under the loss of ``task``."""
        terms = tuple(errors.values)

        def total(kind: str, term: str, error: Tensor) -> Tensor:
            return (residual(kind, error, task.delta(term)) * errors.weights[term][:, None]).sum()

        return cls(
            {
                kind: torch.stack([total(kind, t, errors.per_atom(t)) for t in terms])
                for kind in dict.fromkeys(("mse", "l1", task.loss))
            },
            torch.stack(
                [total(task.loss, t, errors.values[t] * errors.factor(t, task)) for t in terms]
            ),
            torch.stack([errors.weights[t].sum() * TERMS[t].components for t in terms]),
            terms,
        )

    def to(self, device: torch.device) -> Sums:
        """The same numbers on a device."""
        residuals = {kind: sums.to(device) for kind, sums in self.residuals.items()}
        rest = (self.minimised.to(device), self.weights.to(device), self.terms)
        return Sums(residuals, *rest)

    def means(self) -> dict[str, float]:
        """Unweighted means, e.g. ``forces_l1`` in eV/Å; a term without labels has no key."""
        found = {kind: (sums / self.weights).tolist() for kind, sums in self.residuals.items()}
        labelled = (self.weights > 0).tolist()
        return {
            f"{term}_{kind}": values[i]
            for i, term in enumerate(self.terms)
            if labelled[i]
            for kind, values in found.items()
        }

    def loss(self, coefficients: Coefficients) -> float:
        """The loss of everything summed: Σ coefficient · mean."""
        return float(weighted_loss(self, self.weights, coefficients))


def weighted_loss(sums: Sums, normaliser: Tensor, coefficients: Coefficients) -> Tensor:
    """Σ coefficient · minimised sum / normaliser over the terms that have labels, a scalar."""
    scale = term_scales(sums.terms, normaliser, coefficients)
    return sum(scale[t] * sums.minimised[i] for i, t in enumerate(sums.terms))


def term_scales(
    terms: tuple[str, ...] | dict[str, Tensor], normaliser: Tensor, coefficients: Coefficients
) -> dict[str, Tensor]:
    """Term → coefficient / normaliser, a scalar; nothing labelled: the sum is 0 as well."""
    safe = torch.where(normaliser > 0, normaliser, 1.0)
    return {term: coefficients.get(term, 0.0) / safe[i] for i, term in enumerate(terms)}


def cotangents(errors: Errors, task: TaskStage, normaliser: Tensor) -> dict[str, Tensor]:
    """Derivatives of the weighted loss by the prediction, exactly zero where a label is absent.

    normaliser: (terms,) what the sum of each term is divided by.
    Returns term → (rows, components) in float64; terms of one component (rows,).
    """
    scale = term_scales(errors.values, normaliser, task.coefficients)
    found = {}
    for term, error in errors.values.items():
        factor = errors.factor(term, task)
        weight = scale[term] * errors.weights[term][:, None]
        found[term] = weight * slope(task.loss, error * factor, task.delta(term)) * factor
    return {term: _natural(term, values) for term, values in found.items()}


def curvature_weights(errors: Errors, task: TaskStage, normaliser: Tensor) -> dict[str, Tensor]:
    """Second derivatives of the weighted loss by the prediction, in the form of `cotangents`."""
    scale = term_scales(errors.values, normaliser, task.coefficients)
    found = {}
    for term, error in errors.values.items():
        factor = errors.factor(term, task)
        weight = scale[term] * errors.weights[term][:, None]
        found[term] = weight * curvature(task.loss, error * factor, task.delta(term)) * factor**2
    return {term: _natural(term, values) for term, values in found.items()}


def _natural(term: str, values: Tensor) -> Tensor:
    return values[:, 0] if TERMS[term].components == 1 else values
