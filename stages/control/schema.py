"""The control file as written: sections, keys, types and ranges.

`common_config`, `mtp_config` and `multistage_config` have LightPFP's words; the other sections are
this program's own. What the keys mean together is decided in stages/control/resolve.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Group = Literal["descriptor", "readout", "shifts"]
Optimizer = Literal["adam", "lbfgs", "lstsq"]
Loss = Literal["mse", "l1"]
Weighting = Literal["per_atom_squared", "per_atom", "total"]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(gt=0, lt=1)]


def key(
    default: Any,
    description: str,
    *,
    example: Any,
    unit: str = "",
    otherwise: str = "",
    **limits: Any,
) -> Any:
    """A key of a section: default, meaning, example, unit and limits.

    otherwise: what an absent or null value means, where the default itself does not say it.
    """
    extra = {name: text for name, text in (("unit", unit), ("otherwise", otherwise)) if text}
    return Field(
        default, description=description, examples=[example], json_schema_extra=extra, **limits
    )


class Section(BaseModel):
    """What all sections share: unknown keys, wrong types and infinities are refused."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=False,
        protected_namespaces=(),
    )


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
        "Structures per parameter update; the last batch may be smaller. Optimisers that look at "
        "all structures before each update (lbfgs, lstsq) take this many at a time, which changes "
        "only the memory they need.",
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
        "Loss of energy, forces and stress in each stage: mean squared (`mse`) or mean absolute "
        "(`l1`) error.",
        example=["mse", "mse"],
        otherwise='["mse", "mse"]',
    )
    use_calib_stage: bool = key(
        True,
        "Add a last stage whose coefficients make energy, forces and stress contribute equally, "
        "computed from the log of the stage before. Its loss is that of the stage before.",
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


class FileEntry(Section):
    """A data file with a weight."""

    path: str = Field(description="Path of the file.", examples=["bulk.xyz"], min_length=1)
    weight: float = key(1.0, "Factor on the weight of its structures.", example=2.0, gt=0)


File = Annotated[str, Field(min_length=1)] | FileEntry


class DataConfig(Section):
    """Where the structures come from. Relative paths are relative to the control file."""

    files: list[File] = key(
        [],
        'Files to train on: paths, or objects {"path": …, "weight": …}. `--data` on the command '
        "line replaces them.",
        example=["bulk.xyz", {"path": "surfaces.xyz", "weight": 2.0}],
    )
    test_files: list[File] = key(
        [],
        "Files to test on at the end; they never influence the training. `--test` replaces them.",
        example=["test.xyz"],
    )
    energy_key: str | None = key(
        None,
        "Name of the energy in the files.",
        example="REF_energy",
        otherwise="found by the usual names",
    )
    forces_key: str | None = key(
        None,
        "Name of the forces in the files.",
        example="REF_forces",
        otherwise="found by the usual names",
    )
    stress_key: str | None = key(
        None,
        "Name of the stress in the files.",
        example="REF_stress",
        otherwise="found by the usual names",
    )
    type_map: list[str] | None = key(
        None,
        "Element symbols in the order of the type numbers, for files without elements (.cfg, "
        "DeePMD).",
        example=["Si", "O"],
        otherwise="the files name their elements",
        min_length=1,
    )
    config_type_key: str = key(
        "config_type", "Name of the word that groups the frames.", example="group"
    )
    config_type_weights: dict[str, NotNegative] = key(
        {}, "Factors on the weight of the frames of each group.", example={"surface": 2.0}
    )
    weight_key: str | None = key(
        None, "Name of a weight that frames carry.", example="weight", otherwise="every frame has 1"
    )
    valid_fraction: float = key(
        0.1,
        "Share of each file's frames that is kept for validation, at least one frame. They choose "
        "the best epoch and move no parameter, but e0 and the smallest distance, where the radial "
        "functions begin, are taken from training and validation frames together.",
        example=0.2,
        gt=0,
        lt=1,
    )
    max_energy_reference: Literal["raw", "e0"] = key(
        "raw",
        "What max_energy is compared with: the energy as it stands in the file (`raw`) or less the "
        "species shifts (`e0`).",
        example="e0",
    )
    e0: Literal["lstsq", "isolated"] | dict[str, float] = key(
        "lstsq",
        "Energies of single atoms of each species that the model starts from: fitted to the "
        "training and validation frames (`lstsq`), those of the frames with one atom (`isolated`), "
        "or given by symbol.",
        example={"Si": -0.8},
        unit="eV",
    )
    drop_duplicates: bool = key(
        True, "Leave out frames that stand in the data twice.", example=True
    )


class RunConfig(Section):
    """The run itself."""

    seed: int = key(
        0, "Seed of the split, the first parameters and the batches.", example=1, ge=0, le=2**32 - 1
    )
    dtype: Literal["float64", "float32"] = key(
        "float64", "Precision of the training.", example="float32"
    )
    threads: int | None = key(
        None, "Threads of the computation.", example=4, otherwise="what torch chooses", ge=1
    )
    scheduler_gamma: float = key(
        0.85, "Factor of the learning rate in lr_scheduling `step`.", example=0.5, gt=0, le=1
    )
    lr_min_ratio: float = key(
        0.0,
        "Where lr_scheduling `linear_warmup` ends, as a share of the stage's learning rate.",
        example=0.01,
        ge=0,
        le=1,
    )
    memory: float = key(
        4.0,
        "Memory for neighbour pairs that are kept; what exceeds it is computed anew.",
        example=16.0,
        unit="GiB",
        gt=0,
    )


class Target(Section):
    """Shares of the loss that calibration aims at; only their ratios count."""

    energy: float = key(1.0, "Share of the energy term.", example=1.0, ge=0)
    forces: float = key(1.0, "Share of the force term.", example=2.0, ge=0)
    stress: float = key(1.0, "Share of the stress term.", example=1.0, ge=0)


class StageOptions(Section):
    """More about each stage, by lists of one length.

    That length is the number of stages, and calibration repeats the last entry; or one more, and
    the last entry is calibration's. An entry that is null takes the default.
    """

    optimizer: list[Optimizer | None] | None = key(
        None,
        "`adam`; `lbfgs` on all structures at once with a line search; `lstsq`, the exact ridge "
        "solution for the weights in which the energy is linear, one solve per epoch. Learning "
        "rates and their schedule are for adam: lbfgs and lstsq find the length of their steps "
        "themselves. The stages of the default plan are lbfgs.",
        example=["adam", "lbfgs"],
        otherwise="adam; in the default plan lbfgs",
    )
    trainable: list[list[Group] | None] | None = key(
        None,
        "Parameter groups that move: `descriptor` (radial coefficients), `readout`, `shifts` "
        "(species energies).",
        example=[["descriptor", "readout"], None],
        otherwise="all; with lstsq readout and shifts",
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
    ridge: list[NotNegative | None] | None = key(
        None,
        "Ridge of lstsq, relative to the largest eigenvalue of the normal matrix.",
        example=[None, 1e-8],
        otherwise="1e-10",
    )
    calibration_target: Target | None = key(
        None,
        "Shares of energy, forces and stress in the loss that calibration aims at.",
        example={"energy": 2.0, "forces": 1.0, "stress": 1.0},
        otherwise="equal shares; in the default plan 1 : 4 : 1",
    )


class ControlFile(Section):
    """A control file: how `mtp-train` trains a potential."""

    common_config: CommonConfig = Field(CommonConfig(), description="The whole run.")
    mtp_config: MtpConfig = Field(MtpConfig(), description="The potential.")
    multistage_config: MultistageConfig = Field(MultistageConfig(), description="The stages.")
    data_config: DataConfig = Field(DataConfig(), description="The data.")
    run_config: RunConfig = Field(RunConfig(), description="Seed, precision, resources.")
    stage_options: StageOptions = Field(StageOptions(), description="More about each stage.")
