"""The plan as meant: frozen objects that the trainer obeys, stored in plan.json.

`stages/control/resolve.py` makes a Plan from a control file; nothing below it sees a parallel list,
a missing default or an abbreviation. A restart is refused when its plan is not the stored one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

TERMS = ("energy", "forces", "stress")
GROUPS = ("descriptor", "readout", "shifts")
"""Parameter groups that a stage can move."""
WITH_RATE = ("adam",)
"""Optimisers that obey learning rate and schedule and take minibatches."""


@dataclass(frozen=True)
class Coefficients:
    """Loss coefficients of the three terms."""

    energy: float
    forces: float
    stress: float


@dataclass(frozen=True)
class Schedule:
    """Learning-rate curve of one stage (docs/control.md, lr_scheduling)."""

    kind: Literal["step", "linear_warmup", "none"]
    step_size: int  # epochs
    gamma: float = 0.85  # "step": factor every step_size epochs
    min_ratio: float = 0.0  # "linear_warmup": lr ends at lr * min_ratio


@dataclass(frozen=True)
class TaskStage:
    """What one task (head) asks of one stage."""

    loss: Literal["mse", "l1"]
    coefficients: Coefficients | None  # None: set by calibration from the previous stage's log
    energy_weighting: Literal["per_atom_squared", "per_atom", "total"] = "per_atom_squared"
    weight: float | None = None  # share of steps; None: the task's own number of batches


@dataclass(frozen=True)
class Stage:
    """One stage of training."""

    name: str  # "stage1", "stage2", …, "calibration"
    epochs: int
    lr: float
    optimizer: Literal["adam", "lbfgs", "lstsq"]
    schedule: Schedule
    trainable: tuple[str, ...]
    tasks: dict[str, TaskStage]
    calibration_target: Coefficients | None = None  # shares; set only on the calibration stage
    weight_decay: float = 0.0
    gradient_clip: float | None = None  # global norm
    ema: float | None = None  # decay of the weights' moving average
    ridge: float = 1e-10  # lstsq: relative to the largest eigenvalue of the normal matrix


@dataclass(frozen=True)
class DataFile:
    """One data file of a task."""

    path: str  # absolute, or as given on the command line
    weight: float = 1.0


@dataclass(frozen=True)
class DataPlan:
    """Where a task's structures come from and how they are filtered, weighted and split."""

    files: tuple[DataFile, ...]
    test_files: tuple[DataFile, ...] = ()
    energy_key: str | None = None  # None: ASE's own result, then the usual names
    forces_key: str | None = None
    stress_key: str | None = None
    type_map: tuple[str, ...] | None = None  # symbols of types 0, 1, … of files without elements
    config_type_key: str = "config_type"
    config_type_weights: dict[str, float] = field(default_factory=dict)
    weight_key: str | None = None  # per-frame weight in the frame's info
    valid_fraction: float = 0.1
    max_energy: float = 1e38  # eV per atom
    max_energy_reference: Literal["raw", "e0"] = "raw"
    max_forces: float = 1e38  # eV/Å, norm of one atom's force
    e0: str | dict[str, float] = "lstsq"  # "lstsq", "isolated", or {"Si": -0.8, …} in eV
    drop_duplicates: bool = True


@dataclass(frozen=True)
class ModelPlan:
    """The potential to start from scratch (docs/theory.md has the symbols)."""

    rc: float
    levmax: int
    n_q: int
    moment_init_cost: int
    moment_mu_cost: int
    moment_nu_cost: int
    nn_dim_list: tuple[int, ...] = ()
    pretrained_model: str | None = None
    reload_model: str | None = None


@dataclass(frozen=True)
class RunPlan:
    """Everything about the run that is neither model, data nor stage."""

    seed: int = 0
    dtype: Literal["float64", "float32"] = "float64"
    threads: int | None = None
    memory: float = 4.0  # GiB for cached geometry
    batch_size: int = 128
    strict: bool = False  # warnings about the data are errors


@dataclass(frozen=True)
class Plan:
    """A whole run."""

    model: ModelPlan
    data: dict[str, DataPlan]  # task (head) → its data; single-task runs have "default"
    stages: tuple[Stage, ...]
    run: RunPlan
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """The plan of which `as_dict` (also after a way through JSON) gave ``data``."""
        from pydantic import TypeAdapter  # here, so that the trainer's imports stay small

        return TypeAdapter(cls).validate_python(data)
