"""Loss terms: unweighted means of residuals, their weighted sum and its cotangents.

Everything here is float64 and closed form. Each of the terms energy, forces and stress is a mean
over what is labelled, weighted by the weight of the structure; both kinds of residual (``mse`` and
``l1``) are always summed, because the log and the calibration need both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.plan import TERMS, Coefficients, TaskStage

if TYPE_CHECKING:
    from mtp.geometry import Batch
    from mtp.potential import Prediction

KINDS = ("mse", "l1")
RESIDUAL = {"mse": torch.square, "l1": torch.abs}
SLOPE = {"mse": lambda error: 2.0 * error, "l1": torch.sign}

ENERGY_POWER = {"per_atom_squared": 1.0, "per_atom": 0.5, "total": 0.0}
"""The minimised energy residual is that of error / atoms**power."""


@dataclass(frozen=True)
class Errors:
    """Prediction minus label of one batch, exactly zero where the label is absent.

    energy: (S,) eV of the whole structure.  forces: (atoms, 3) eV/Å.  stress: (S, 6) eV/Å³.
    atoms: (S,) atoms per structure.  weights: term → weight of each row, 0 where absent.
    counts: (3,) labelled numbers (not rows) of each term.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor
    atoms: Tensor
    weights: dict[str, Tensor]
    counts: Tensor

    @classmethod
    def of(cls, prediction: Prediction, batch: Batch) -> Errors:
        present = presence(batch)
        weight = batch.weight.double()
        return cls(
            energy=_difference(prediction.energy, batch.energy, present["energy"]),
            forces=_difference(prediction.forces, batch.forces, present["forces"]),
            stress=_difference(prediction.stress, batch.stress, present["stress"]),
            atoms=batch.atoms_per_structure.double(),
            weights={
                "energy": weight * present["energy"],
                "forces": weight[batch.structure] * present["forces"],
                "stress": weight * present["stress"],
            },
            counts=label_counts(batch),
        )

    def scaled_energy(self, weighting: str) -> Tensor:
        """(S,) energy errors as a stage weighs them: eV/atom, eV/sqrt(atom) or eV."""
        return self.energy / self.atoms ** ENERGY_POWER[weighting]


def presence(batch: Batch) -> dict[str, Tensor]:
    """Term → bool per row: (S,) for energy and stress, (atoms,) for forces."""
    return {
        "energy": batch.has_energy,
        "forces": batch.has_forces[batch.structure],
        "stress": batch.has_stress,
    }


def label_counts(batch: Batch) -> Tensor:
    """(3,) how many numbers are labelled: energies, force components, stress components."""
    present = presence(batch)
    return torch.stack(
        [present["energy"].sum(), 3 * present["forces"].sum(), 6 * present["stress"].sum()]
    ).double()


def _difference(predicted: Tensor, label: Tensor, present: Tensor) -> Tensor:
    mask = present.view(-1, *[1] * (predicted.dim() - 1))
    return torch.where(mask, predicted.double() - label.double(), 0.0)


@dataclass(frozen=True)
class Sums:
    """Weighted sums of residuals over any number of batches; ``+`` joins two.

    residuals: (3 terms, 2 kinds), energy per atom.  minimised: (3,), as the stage weighs them.
    weights: (3,) what the sums are to be divided by.
    """

    residuals: Tensor
    minimised: Tensor
    weights: Tensor

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.residuals + other.residuals,
            self.minimised + other.minimised,
            self.weights + other.weights,
        )

    @classmethod
    def of(cls, errors: Errors, task: TaskStage) -> Sums:
        """Sums of one batch under the loss of ``task``."""
        rows = _rows(errors, "per_atom_squared")
        residuals = torch.stack(
            [
                torch.stack([_weighted(RESIDUAL[kind](e), w) for kind in KINDS])
                for e, w in rows.values()
            ]
        )
        minimised = torch.stack(
            [
                _weighted(RESIDUAL[task.loss](e), w)
                for e, w in _rows(errors, task.energy_weighting).values()
            ]
        )
        weights = torch.stack([w.sum() * e.shape[1] for e, w in rows.values()])
        return cls(residuals, minimised, weights)

    def terms(self) -> dict[str, float]:
        """Unweighted means, e.g. ``forces_l1`` in eV/Å; a term without labels has no key."""
        means = (self.residuals / self.weights[:, None]).tolist()
        return {
            f"{term}_{kind}": means[i][j]
            for i, term in enumerate(TERMS)
            if self.weights[i] > 0
            for j, kind in enumerate(KINDS)
        }

    def loss(self, coefficients: Coefficients) -> float:
        """The loss of everything summed: Σ coefficient · mean."""
        return float(weighted_loss(self.minimised, self.weights, coefficients))


def _rows(errors: Errors, weighting: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Term → (errors (rows, components), weights (rows,))."""
    return {
        "energy": (errors.scaled_energy(weighting)[:, None], errors.weights["energy"]),
        "forces": (errors.forces, errors.weights["forces"]),
        "stress": (errors.stress, errors.weights["stress"]),
    }


def _weighted(residual: Tensor, weight: Tensor) -> Tensor:
    return (residual * weight[:, None]).sum()


def coefficient_vector(coefficients: Coefficients, like: Tensor) -> Tensor:
    """(3,) in the order of TERMS."""
    return like.new_tensor([getattr(coefficients, term) for term in TERMS])


def weighted_loss(minimised: Tensor, normaliser: Tensor, coefficients: Coefficients) -> Tensor:
    """Σ coefficient · sum / normaliser over the terms that have labels, a scalar."""
    scale = coefficient_vector(coefficients, minimised) / _nonzero(normaliser)
    return (scale * minimised).sum()


def _nonzero(normaliser: Tensor) -> Tensor:
    return torch.where(normaliser > 0, normaliser, 1.0)  # nothing labelled: the sum is 0 as well


def cotangents(
    errors: Errors, task: TaskStage, normaliser: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of the weighted loss with respect to energies, forces and stresses.

    normaliser: (3,) what the sum of each term is divided by.
    Returns (S,), (atoms, 3) and (S, 6) in float64, exactly zero where a label is absent.
    """
    slope = SLOPE[task.loss]
    scale = coefficient_vector(task.coefficients, normaliser) / _nonzero(normaliser)
    size = errors.atoms ** ENERGY_POWER[task.energy_weighting]
    d_energy = scale[0] * errors.weights["energy"] * slope(errors.energy / size) / size
    d_forces = scale[1] * errors.weights["forces"][:, None] * slope(errors.forces)
    d_stress = scale[2] * errors.weights["stress"][:, None] * slope(errors.stress)
    return d_energy, d_forces, d_stress


def curvature_weights(
    errors: Errors, task: TaskStage, normaliser: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Second derivatives of the weighted loss by energies, forces and stresses.

    Returns (S,), (atoms, 3), (S, 6). For l1, which has none, those of the parabola that touches it
    at the error: 1/|error|, bounded by the typical error.
    """
    scale = coefficient_vector(task.coefficients, normaliser) / _nonzero(normaliser)
    size = errors.atoms ** ENERGY_POWER[task.energy_weighting]
    energy, forces, stress = (
        scale[k] * weight[:, None] * _curvature(task.loss, error)
        for k, (error, weight) in enumerate(_rows(errors, task.energy_weighting).values())
    )
    return energy[:, 0] / (size * size), forces, stress


def _curvature(kind: str, error: Tensor) -> Tensor:
    if kind == "mse":
        return torch.full_like(error, 2.0)
    size = error.abs()
    return 1 / size.clamp_min(float(size.mean().clamp_min(1e-12)))
