"""The plan as meant: frozen objects that the trainer obeys, stored in plan.json.

`stages/control/resolve.py` makes a Plan from a control file; nothing below it sees a parallel list,
a missing default or an abbreviation. A restart is refused when its plan is not the stored one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

GROUPS = ("descriptor", "type_embedding", "readout", "shifts")
"""Parameter groups that a stage moves unless told, as far as a potential has them."""
LINEAR = "linear"
"""The part of the readouts in which predictions are linear: a network is silent until it moves."""
WITH_RATE = ("adam",)
"""Optimisers that obey learning rate and schedule and take minibatches."""

Coefficients = dict[str, float]
"""Term (mtp/terms.py) → its coefficient in a loss; an absent term has 0."""

HUBER_DELTA: Coefficients = {
    "energy": 0.01,
    "forces": 0.1,
    "stress": 0.001,
    "dipole": 0.01,
    "atomic_dipole": 0.01,
    "polarizability": 0.01,
    "atomic_polarizability": 0.01,
}
"""Where huber goes over from squared to absolute, in the unit of the logged error of each term."""


def coefficients(energy: float, forces: float, stress: float) -> Coefficients:
    """Coefficients of an energy task."""
    return {"energy": energy, "forces": forces, "stress": stress}


@dataclass(frozen=True)
class Schedule:
    """Learning-rate curve of one stage (docs/control.md, lr_scheduling)."""

    kind: Literal["step", "linear_warmup", "none"]
    step_size: int  # epochs
    gamma: float = 0.85  # "step": factor every step_size epochs
    min_ratio: float = 0.0  # "linear_warmup": lr ends at lr * min_ratio


@dataclass(frozen=True)
class Prefactors:
    """A coefficient that follows the learning rate: start · lr/lr0 + limit · (1 − lr/lr0).

    lr0 is the stage's (or the task's) learning rate; the ratio is 1 during warm-up. Source:
    DeePMD-kit's energy loss.
    """

    start: float
    limit: float

    def at(self, ratio: float) -> float:
        """The coefficient for lr/lr0 = ratio."""
        return self.start * ratio + self.limit * (1.0 - ratio)


@dataclass(frozen=True)
class TaskStage:
    """What one task (head) asks of one stage."""

    loss: Literal["mse", "l1", "huber"]
    coefficients: Coefficients | None  # None: set by calibration from the previous stage's log
    energy_weighting: Literal["per_atom_squared", "per_atom", "total"] = "per_atom_squared"
    weight: float | None = None  # share of steps; None: the task's own number of batches; 0: idle
    lr: float | None = None  # None: the stage's
    prefactors: dict[str, Prefactors] | None = None  # in place of coefficients, which they set
    virial: bool = False  # the stress term is that of the virial, eV, weighted as energies are
    huber_delta: Coefficients | None = None
    epochs: float | None = None  # in place of weight: passes through its own frames in this stage

    def delta(self, term: str) -> float:
        """Where huber goes over from squared to absolute."""
        return (self.huber_delta or {}).get(term, HUBER_DELTA[term])


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
    calibration_target: dict[str, Coefficients] | None = None  # task → shares; only on calibration
    task_target: Coefficients | None = None  # task → share of the loss; only on calibration
    weight_decay: float = 0.0
    gradient_clip: float | None = None  # global norm
    ema: float | None = None  # decay of the weights' moving average
    pull: float = 0.0  # adam, lbfgs: see Objective
    ridge: float = 1e-10  # lstsq: relative to the largest eigenvalue of the normal matrix

    def active(self) -> dict[str, TaskStage]:
        """The tasks that take part."""
        return {name: task for name, task in self.tasks.items() if task.weight != 0}


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
    dipole_key: str | None = None
    polarizability_key: str | None = None
    atomic_dipole_key: str | None = None
    atomic_polarizability_key: str | None = None


@dataclass(frozen=True)
class HeadPlan:
    """A head of the potential, and where it comes from.

    The fields up to ``embedded`` are those of mtp.potential.HeadSpec.
    source: the head of the loaded model it starts from; "RANDOM" (or nothing to load): anew.
    adjust: whether its species shifts are fitted to what the loaded head leaves over.
    """

    name: str = "default"
    kind: Literal["energy", "dipole", "polarizability"] = "energy"
    hidden: tuple[int, ...] = ()
    activation: str = "tanh"
    timestep: bool = False
    shared: tuple[str | None, ...] = ()
    level: int | None = None
    species: tuple[str, ...] = ()  # symbols
    embedded: bool = False
    source: str | None = None
    adjust: bool = True


@dataclass(frozen=True)
class EmbeddingPlan:
    """The type embedding (mtp.potential.EmbeddingSpec)."""

    neuron: tuple[int, ...] = (8,)
    timestep: bool = False


@dataclass(frozen=True)
class ModelPlan:
    """The potential to start from (docs/theory.md has the symbols).

    With pretrained_model or reload_model the descriptor is that of the file.
    """

    rc: float
    levmax: int
    n_q: int
    moment_init_cost: int
    moment_mu_cost: int
    moment_nu_cost: int
    heads: tuple[HeadPlan, ...] = (HeadPlan(),)
    embedding: EmbeddingPlan | None = None
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
    task_draw: Literal["shares", "random"] = "shares"
    grade: bool = True  # active sets for extrapolation grades in the best model


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
