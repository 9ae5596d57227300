"""The loss of a task, for all stages or for one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.control.defaults import TENSOR_COEFFICIENT
from stages.control.sections.keys import Loss, NotNegative, Positive, Section, Weighting, key

Term = Literal[
    "energy",
    "forces",
    "stress",
    "dipole",
    "atomic_dipole",
    "polarizability",
    "atomic_polarizability",
]
"""What a loss sums errors of (mtp/terms.py)."""
Followed = Literal[Term, "virial"]  # what can follow the learning rate
StartLimit = Annotated[list[NotNegative], Field(min_length=2, max_length=2)]


TENSOR = f"{TENSOR_COEFFICIENT:g}"


def _coefficient(what: str, default: str) -> float | None:
    return key(None, f"Coefficient of {what}.", example=1.0, otherwise=default, ge=0)


class TaskLoss(Section):
    """The loss of a task. What is not given is that of the stage."""

    loss_func: Loss | None = key(
        None,
        "Mean squared (`mse`), mean absolute (`l1`) or Huber's (`huber`) error.",
        example="huber",
        otherwise="loss_func_list; of dipoles and polarizabilities mse",
    )
    energy_coeff: float | None = _coefficient("the energy", "energy_loss_coeff_list")
    forces_coeff: float | None = _coefficient("the forces", "forces_loss_coeff_list")
    stress_coeff: float | None = _coefficient("the stress", "stress_loss_coeff_list")
    dipole_coeff: float | None = _coefficient("the dipole of a structure", TENSOR)
    atomic_dipole_coeff: float | None = _coefficient("the dipoles of atoms", TENSOR)
    polarizability_coeff: float | None = _coefficient("the polarizability of a structure", TENSOR)
    atomic_polarizability_coeff: float | None = _coefficient(
        "the polarizabilities of atoms", TENSOR
    )
    prefactors: dict[Followed, StartLimit] | None = key(
        None,
        "Coefficients that follow the learning rate (adam), by term: [start, limit] means "
        "start · lr/lr0 + limit · (1 − lr/lr0), lr0 the learning rate of the stage; the ratio is 1 "
        "during warm-up. `virial` in place of `stress` is the error of stress × volume, weighted "
        "as the energy's by energy_weighting. Terms without prefactor or coefficient beside it "
        "have 0.",
        example={"energy": [0.02, 1.0], "forces": [1000.0, 1.0]},
        otherwise="coefficients that stay",
    )
    energy_weighting: Weighting | None = key(
        None,
        "What errors of energies, dipoles, polarizabilities and virials of a structure of N atoms "
        "are divided by, as in stage_options.",
        example="per_atom",
        otherwise="that of stage_options",
    )
    huber_delta: dict[Term, Positive] | None = key(
        None,
        "Errors beyond which huber grows in a straight line, by term.",
        example={"forces": 0.05},
        unit="that of the term: energies, dipoles and polarizabilities per atom",
        otherwise="energy 0.01, forces 0.1, stress 0.001, the others 0.01",
    )


class StageTaskLoss(TaskLoss):
    """The loss of a task in one stage. What is not given is that of the task, then the stage."""

    lr: float | None = key(
        None,
        "Learning rate of this task's steps (adam), on the curve of the stage.",
        example=0.001,
        otherwise="that of the stage",
        gt=0,
    )
