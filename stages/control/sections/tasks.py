"""The section of the tasks: heads on one descriptor, each with its own data and loss."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from stages.control.sections.data import DataConfig
from stages.control.sections.keys import Count, Section, key
from stages.control.sections.loss import TaskLoss

RANDOM = "RANDOM"
"""The word of finetune_head for a head that starts anew."""


class Readout(Section):
    """From the invariants of an atom to what the task predicts."""

    neuron: list[Count] = key(
        [],
        "Widths of the hidden layers; two of equal width are joined by a residual connection. "
        "An empty list makes the readout linear.",
        example=[32, 32],
    )
    activation: Literal["tanh", "silu", "softplus", "gelu", "sigmoid"] = key(
        "tanh", "What a hidden layer applies to its sums.", example="silu"
    )
    resnet_dt: bool = key(
        False, "Learn a factor on what each residual connection adds.", example=True
    )
    embedding: bool = key(
        False, "The type embedding of the atom enters the first hidden layer.", example=True
    )


class Task(Section):
    """One head. `{}` means an energy task with the readout of mtp_config.

    Where a model is loaded, a task that has the name of one of its heads (or names one by
    finetune_head) starts from that head, and `{}` takes its readout and its data from there too.
    """

    type: Literal["ener", "dipole", "polar"] = key(
        "ener",
        "What is predicted: energy, forces and stress (`ener`), dipoles (`dipole`) or "
        "polarizabilities (`polar`).",
        example="dipole",
    )
    data: DataConfig | None = key(
        None,
        "The task's data: keys of data_config, which fill in for those not given. Files of "
        "data_config itself are those of a single task only; of several tasks each names its own.",
        example={"files": ["dipoles.xyz"], "dipole_key": "dipole"},
        otherwise="data_config",
    )
    readout: Readout | None = key(
        None,
        "The readout, an object (below).",
        example={"neuron": [32, 32]},
        otherwise="hidden layers of nn_dim_list",
    )
    layer_name: list[str | None] | None = key(
        None,
        "Names of the hidden layers and of the output layer. Layers of one name, which must have "
        "one shape, are one layer; null is a layer of the task's own.",
        example=["shared", None, None],
        otherwise="no layer is shared",
    )
    loss: TaskLoss | None = key(
        None,
        "The loss, an object (below), in all stages; stage_options.task_loss changes it in one.",
        example={"forces_coeff": 10.0},
        otherwise="that of the stages; dipoles and polarizabilities: mse, coefficients 1000",
    )
    level: int | None = key(
        None,
        "Highest level of the vectors or tensors that a dipole or polar task sums.",
        example=10,
        otherwise="8",
        ge=1,
        le=200,
    )
    sel_type: list[str] | None = key(
        None,
        "Elements whose atoms carry the dipole or polarizability.",
        example=["O"],
        otherwise="all",
        min_length=1,
    )
    finetune_head: str | None = key(
        None,
        f"Head of the loaded model to start from, or `{RANDOM}`: start anew.",
        example="pbe",
        otherwise=f"the head of the task's name, for a single task the only one, else {RANDOM}",
    )
    adjust_shifts: bool = key(
        True,
        "Fit the species shifts of a loaded head to what it leaves over on the task's data. Those "
        "of a new head always are.",
        example=False,
    )


class TypeEmbedding(Section):
    """A vector for each species, from which the radial coefficients are made."""

    neuron: list[Count] = key(
        [8], "Widths of the network from species to vector.", example=[2, 4, 8], min_length=1
    )
    resnet_dt: bool = key(False, "Learn a factor on each layer that is added to.", example=True)


class LoadedDescriptor(Section):
    """An empty object: the descriptor is that of the loaded model."""


class Tasks(Section):
    """Heads on one descriptor: any names → tasks, besides two reserved words.

    Species shifts are each task's own. A file without this section has the single task `default`.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Task]

    descriptor: LoadedDescriptor | None = key(
        None,
        "`{}`: taken from the loaded model, which must be named.",
        example={},
        otherwise="as mtp_config says, or from the loaded model",
    )
    type_embedding: TypeEmbedding | None = key(
        None,
        "Make the radial coefficients from vectors of the species, an object (below): their "
        "number grows with the species and not with its square.",
        example={"neuron": [8]},
        otherwise="a table of coefficients for every pair of species",
    )

    @property
    def named(self) -> dict[str, Task]:
        """The tasks by name."""
        return dict(self.__pydantic_extra__)
