"""The section with more about each stage."""

from __future__ import annotations

from stages.control.sections.keys import (
    Decay,
    NotNegative,
    Optimizer,
    Positive,
    Section,
    Weighting,
    key,
)
from stages.control.sections.loss import StageTaskLoss, Term

Target = dict[Term, NotNegative]
Shares = dict[str, NotNegative | None]  # by task


class StageOptions(Section):
    """More about each stage, by lists of one length.

    That length is the number of stages, and calibration repeats the last entry; or one more, and
    the last entry is calibration's. An entry that is null takes the default.
    """

    optimizer: list[Optimizer | None] | None = key(
        None,
        "`adam`; `lbfgs` on all structures at once with a line search, the weights of linear "
        "readouts solved for at every step (on the CPU, with mse); `lstsq`, the exact ridge "
        "solution for the weights in which predictions are linear, one solve per epoch. Learning "
        "rates and their schedule are for adam: the others find the length of their steps "
        "themselves. The stages of the default plan are lbfgs.",
        example=["adam", "lbfgs"],
        otherwise="adam; in the default plan lbfgs",
    )
    trainable: list[list[str] | None] | None = key(
        None,
        "Parameter groups that move: `descriptor` (radial coefficients), `type_embedding`, "
        "`readout`, `shifts` (species energies); of one task: its name, `NAME.readout`, "
        "`NAME.shifts`. `linear` in place of `readout`: without the networks, which are silent "
        "until a stage moves them.",
        example=[["descriptor", "readout"], None],
        otherwise="all; with lstsq readout and shifts; in the default plan from scratch networks "
        "from the second stage on",
    )
    energy_weighting: list[Weighting | None] | None = key(
        None,
        "What the energy error of a structure of N atoms is divided by before it is squared (mse) "
        "or made absolute (l1): N (`per_atom_squared`), √N (`per_atom`) or 1 (`total`). The "
        "calibration stage uses per_atom_squared.",
        example=["per_atom", None],
        otherwise="per_atom_squared",
    )
    weight_decay: list[NotNegative | None] | None = key(
        None, "Decoupled weight decay (adam).", example=[1e-4, 0.0], otherwise="0"
    )
    gradient_clip: list[Positive | None] | None = key(
        None, "Largest norm of the gradient (adam).", example=[10.0, None], otherwise="no limit"
    )
    ema: list[Decay | None] | None = key(
        None,
        "Decay of the moving average of the weights (adam), which is then what is evaluated and "
        "saved.",
        example=[None, 0.99],
        otherwise="no average",
    )
    pull: list[NotNegative | None] | None = key(
        None,
        "Weight of noise · Σ (θ − θ_start)² / labels in the loss (adam, lbfgs), which keeps "
        "parameters, shifts left out, near those of the loaded model, from scratch near the first "
        "ones or those with which a network joins in: the fewer the labels (numbers), the nearer. "
        "The noise is the validation loss of the last epoch (lbfgs: of that before its matrix was "
        "estimated).",
        example=[0.1, None],
        otherwise="0; in the default plan 0.03, for a new network 1, from a "
        "pretrained_model 0.1 (linear: 0.003), from a reload_model 30",
    )
    ridge: list[NotNegative | None] | None = key(
        None,
        "Ridge of lstsq, relative to the largest eigenvalue of the normal matrix.",
        example=[None, 1e-8],
        otherwise="1e-10",
    )
    calibration_target: Target | dict[str, Target] | None = key(
        None,
        "Shares of the terms in the loss that calibration aims at, by term for all tasks or by "
        "task and term; a term not named has 1.",
        example={"energy": 2.0, "forces": 1.0, "stress": 1.0},
        otherwise="equal shares; of energy tasks in the default plan 1 : 4 : 1",
    )
    task_weight: list[Shares | None] | None = key(
        None,
        "Shares of the tasks, by name: of the steps (adam) or of the loss (lbfgs). A task that is "
        "not named, or has 0 or null, is idle in that stage.",
        example=[{"default": 1.0}, None],
        otherwise="each task makes as many steps as it has batches",
    )
    task_epochs: list[Shares | None] | None = key(
        None,
        "In place of task_weight (adam): passes of each task through its own data in the whole "
        "stage, whose number of epochs then only divides it.",
        example=[{"default": 10.0}, None],
        otherwise="as task_weight says",
    )
    task_loss: list[dict[str, StageTaskLoss | None] | None] | None = key(
        None,
        "Losses of tasks in single stages, by name: keys of tasks.NAME.loss, and lr. For "
        "calibration, which sets coefficients itself, loss_func, huber_delta and lr.",
        example=[{"default": {"loss_func": "l1", "lr": 0.01}}, None],
        otherwise="tasks.NAME.loss",
    )
    task_target: dict[str, NotNegative] | None = key(
        None,
        "Shares of the tasks in the loss that calibration aims at.",
        example={"default": 1.0},
        otherwise="every task keeps its share",
    )
