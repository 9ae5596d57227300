"""What is trained where the control file is silent."""

from __future__ import annotations

from dataclasses import replace

from stages.plan import GROUPS, LINEAR, Coefficients, Schedule, Stage, TaskStage, coefficients

TASK = "default"
"""Name of the only task (head) of a single-task run."""

TENSOR_LEVEL = 8
"""Level of the covariant moments of dipole and polarizability heads."""

TENSOR_COEFFICIENT = 1000.0
"""Loss coefficient of tensors: 1e-3 e·Å or Å³ per atom counts like 0.03 eV/Å of forces, so that
the energies of another task do not drown them."""

LISTS = {
    "lr_list": [0.1, 0.01],
    "epoch_list": [80, 160],
    "energy_loss_coeff_list": [1e-5, 1.0],
    "forces_loss_coeff_list": [10.0, 0.1],
    "stress_loss_coeff_list": [1e-5, 10.0],
    "loss_func_list": ["mse", "mse"],
}
"""The six stage lists: what a missing one means when others are given (LightPFP's example)."""

CALIBRATION_LR = 0.01
CALIBRATION_EPOCHS = 80
RATIO = (0.25, 0.5, 0.25)
"""How total_epoch is shared by two stages and calibration."""


def stage(
    name: str,
    epochs: int,
    lr: float,
    weights: Coefficients | None,
    loss: str = "mse",
    optimizer: str = "adam",
    trainable: tuple[str, ...] = GROUPS,
    kind: str = "linear_warmup",
) -> Stage:
    """A stage of a single-task run; its schedule's step is that of `scheduler_step_size`."""
    schedule = Schedule(kind, step_size(epochs))
    tasks = {TASK: TaskStage(loss, weights)}
    return Stage(name, epochs, lr, optimizer, schedule, trainable, tasks)


def step_size(epochs: int) -> int:
    """Default of scheduler_step_size for a stage."""
    return max(1, epochs // 25)


PULL = {"linear": 0.003, "network": 0.1, "reload_model": 30.0}
"""Pull towards a loaded model where no lists are given: a pretrained one, which has seen other
materials, has far to go, the farther the fewer parameters it has; a model of one's own is near
(docs/benchmarks.md, "Fine-tuning")."""

START_PULL, NETWORK_PULL = 0.03, 1.0
"""Pull from scratch, towards the start (ten structures of an alloy leave pairs of elements
undetermined) and towards the linear potential that networks join (they overfit)."""

WITHOUT_NETWORKS = tuple(LINEAR if group == "readout" else group for group in GROUPS)


def default_stages(pull: float | None = None, networks: bool = False) -> tuple[Stage, ...]:
    """The plan that applies when none of the six lists is given: two stages and calibration.

    pull: that of PULL for a run that starts from a model.  networks: whether heads have some.
    From a model a stage that keeps the descriptor fixed at first, and smaller steps, did not pay. A
    new network joins a linear potential that the first stage has trained: it begins nearer to the
    end, and overfits less.

    Found by experiment (docs/benchmarks.md, "The default plan"): L-BFGS throughout; forces first,
    then energies and stresses. Calibration aims at two thirds of the loss for the forces: equal
    shares buy little energy and stress with much force error.
    """
    calibration = stage("calibration", CALIBRATION_EPOCHS, CALIBRATION_LR, None, optimizer="lbfgs")
    first = WITHOUT_NETWORKS if networks and pull is None else GROUPS
    stages = (
        stage("stage1", 80, 0.1, coefficients(1.0, 1.0, 1.0), "mse", "lbfgs", first),
        stage("stage2", 160, 0.01, coefficients(100.0, 1.0, 100.0), optimizer="lbfgs"),
        replace(calibration, calibration_target={TASK: coefficients(1 / 6, 2 / 3, 1 / 6)}),
    )
    later = NETWORK_PULL if networks else START_PULL
    pulls = (START_PULL, later, later) if pull is None else (pull,) * 3
    return tuple(replace(one, pull=p) for one, p in zip(stages, pulls, strict=True))


def default_trainable(optimizer: str) -> tuple[str, ...]:
    """The parameter groups a stage moves unless told: lstsq solves for the linear ones."""
    return ("readout", "shifts") if optimizer == "lstsq" else GROUPS
