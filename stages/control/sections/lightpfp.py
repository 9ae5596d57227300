"""LightPFP's sections: the whole run, the potential, the stages."""

from __future__ import annotations

from typing import Literal

from stages.control.sections.keys import Count, Loss, NotNegative, Positive, Section, key


class CommonConfig(Section):
    """What holds for the whole run."""

    total_epoch: int | None = key(
        None,
        "Epochs of all stages together. Two stages and calibration share them 0.25 : 0.5 : 0.25; "
        "any other number of stages in proportion to epoch_list and calibration_epoch. Replaces "
        "both.",
        example=320,
        unit="epochs",
        otherwise="epoch_list and calibration_epoch hold",
        ge=1,
    )
    batch_size: int = key(
        128,
        "Structures per parameter update (adam); the last batch may be smaller. The other "
        "optimisers look at all structures before each update, whatever stands here.",
        example=32,
        ge=1,
    )
    reload_model: str | None = key(
        None,
        "Model file to start from. Its architecture holds and the other keys of mtp_config are "
        "ignored.",
        example="runs/silicon/best.mtp.safetensors",
        otherwise="the parameters start from random numbers",
    )
    lr_scheduling: Literal["step", "linear_warmup", "None", "none"] | None = key(
        "linear_warmup",
        "Learning rate within each stage (adam). `step`: multiplied by scheduler_gamma every "
        "scheduler_step_size epochs. `linear_warmup`: up from 0 in the first scheduler_step_size "
        "epochs, then down in a straight line to lr_min_ratio times its value. `None` or null: "
        "constant. It starts anew in each stage.",
        example="step",
        otherwise="constant",
    )
    scheduler_step_size: int | None = key(
        None,
        "Step of the schedule.",
        example=10,
        unit="epochs",
        otherwise="int(epochs of the stage / 25), at least 1",
        ge=1,
    )
    max_energy: float = key(
        1e38,
        "Structures with more energy per atom are left out (see max_energy_reference).",
        example=0.0,
        unit="eV/atom",
    )
    max_forces: float = key(
        1e38,
        "Structures in which the force on any atom is longer are left out.",
        example=50.0,
        unit="eV/Å",
        gt=0,
    )


class MtpConfig(Section):
    """The potential. docs/theory.md has the symbols."""

    model_version: Literal["v1.0"] = key("v1.0", "Version of the model.", example="v1.0")
    pretrained_model: str | None = key(
        None,
        "Name of an installed model to start from. All other keys of this section except "
        "model_version are then ignored.",
        example="",
        otherwise="none, as is the empty string",
    )
    rc: float = key(6.0, "Cutoff of an atom's environment.", example=5.0, unit="Å", gt=0)
    levmax: int = key(
        8,
        "Highest level of the invariants; higher is more accurate and slower.",
        example=12,
        ge=1,
        le=200,
    )
    n_q: int = key(8, "Number of Chebyshev polynomials in a radial function.", example=8, ge=1)
    moment_mu_cost: int = key(
        4, "Cost of μ in the level of a moment M(μ, ν); at least 1.", example=1
    )
    moment_init_cost: int = key(2, "Cost of any moment before μ and ν count.", example=2, ge=0)
    moment_nu_cost: int = key(
        1, "Cost of ν in the level of a moment M(μ, ν); at least 1.", example=1
    )
    nn_dim_list: list[Count] = key(
        [],
        "Widths of the hidden layers of a neural network readout; 2 or 3 layers of 16 to 128 are "
        "recommended. An empty list makes the readout linear.",
        example=[32, 32],
    )


class MultistageConfig(Section):
    """The stages of training: entry i of every list belongs to stage i.

    The six lists have one length. When none is given the default plan applies; when some are
    given, a missing one takes its default if that has the same length.
    """

    lr_list: list[Positive] | None = key(
        None, "Learning rate of each stage (adam).", example=[0.1, 0.01], otherwise="[0.1, 0.01]"
    )
    epoch_list: list[Count] | None = key(
        None, "Epochs of each stage.", example=[80, 160], unit="epochs", otherwise="[80, 160]"
    )
    energy_loss_coeff_list: list[NotNegative] | None = key(
        None,
        "Coefficient of the energy term (error per atom) in the loss of each stage.",
        example=[1e-5, 1.0],
        otherwise="[1e-05, 1.0]",
    )
    forces_loss_coeff_list: list[NotNegative] | None = key(
        None,
        "Coefficient of the force term (error per component) in the loss of each stage.",
        example=[10.0, 0.1],
        otherwise="[10.0, 0.1]",
    )
    stress_loss_coeff_list: list[NotNegative] | None = key(
        None,
        "Coefficient of the stress term (error per Voigt component) in the loss of each stage.",
        example=[1e-5, 10.0],
        otherwise="[1e-05, 10.0]",
    )
    loss_func_list: list[Loss] | None = key(
        None,
        "Loss of energy, forces and stress in each stage: mean squared (`mse`), mean absolute "
        "(`l1`) or Huber's (`huber`) error.",
        example=["mse", "mse"],
        otherwise='["mse", "mse"]',
    )
    use_calib_stage: bool = key(
        True,
        "Add a last stage whose coefficients make energy, forces and stress contribute equally "
        "(in the default plan 1 : 4 : 1; `calibration_target`), computed from the log of the stage "
        "before. Its loss is that of the stage before.",
        example=False,
    )
    calibration_lr: float | None = key(
        None, "Learning rate of the calibration stage (adam).", example=0.01, otherwise="0.01", gt=0
    )
    calibration_epoch: int | None = key(
        None,
        "Epochs of the calibration stage.",
        example=80,
        unit="epochs",
        otherwise="80",
        ge=1,
    )
