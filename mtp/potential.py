"""The potential: descriptor and heads; what they predict and the gradient of a loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtp import energy, tensors
from mtp.basis.graphs import MomentSpec
from mtp.basis.moment_table import MomentTable, moment_table
from mtp.basis.radial import RadialSpec
from mtp.errors import InvalidInput
from mtp.geometry import Batch
from mtp.heads import add_to_gradient
from mtp.kernels import operator
from mtp.kernels.choose import Basis, kernel_for, register_basis
from mtp.prediction import Prediction, per_structure
from mtp.type_embedding import TypeEmbedding

__all__ = [
    "EmbeddingSpec",
    "HeadSpec",
    "Potential",
    "PotentialSpec",
    "Prediction",
    "per_structure",
]


@dataclass(frozen=True)
class HeadSpec:
    """What one head predicts and how.

    kind: what it predicts (mtp/terms.py).  hidden, activation, timestep: its network
    (mtp/heads.py); no hidden layer: linear.  shared: names of its layers (hidden ones, then the
    last) that it shares with layers of the same name of other heads, None for one of its own; ()
    shares none.
    level: of the covariant moments of a tensor head.  species: atomic numbers of the atoms that
    contribute to a tensor, () for all.  embedded: the type embedding enters the network.
    """

    name: str = "default"
    kind: Literal["energy", "dipole", "polarizability"] = "energy"
    hidden: tuple[int, ...] = ()
    activation: str = "tanh"
    timestep: bool = False
    shared: tuple[str | None, ...] = ()
    level: int | None = None
    species: tuple[int, ...] = ()
    embedded: bool = False


@dataclass(frozen=True)
class EmbeddingSpec:
    """The type embedding: widths of the network from a species to its vector."""

    neuron: tuple[int, ...] = (8,)
    timestep: bool = False


@dataclass(frozen=True)
class PotentialSpec:
    """Everything that fixes a potential's shape: species ascending, distances in Å."""

    species: tuple[int, ...]  # atomic numbers
    cutoff: float
    min_dist: float
    n_q: int = 8
    levmax: int = 8
    moment_init_cost: int = 2
    moment_mu_cost: int = 4
    moment_nu_cost: int = 1
    heads: tuple[HeadSpec, ...] = (HeadSpec(),)
    embedding: EmbeddingSpec | None = None  # None: a table of radial coefficients

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of the heads in their order."""
        return tuple(head.name for head in self.heads)

    def head(self, name: str) -> HeadSpec:
        """The head of this name; KeyError where there is none."""
        return dict(zip(self.head_names, self.heads, strict=True))[name]

    @property
    def moments(self) -> MomentSpec:
        """Level and costs."""
        return MomentSpec(
            self.levmax, self.moment_init_cost, self.moment_mu_cost, self.moment_nu_cost
        )

    @property
    def radial(self) -> RadialSpec:
        """The radial basis."""
        return RadialSpec(self.min_dist, self.cutoff, self.n_q)


_KINDS = {"energy": energy, "dipole": tensors, "polarizability": tensors}
"""Kind of a head → the module that says what its table is, and predicts and differentiates it."""


class Heads(nn.ModuleDict):
    """Heads by any name, also by one that a method of modules has."""

    def __setitem__(self, name: str, head: nn.Module) -> None:
        self._modules[name] = head


class Potential(nn.Module):
    """A moment tensor potential with one or more heads on one descriptor.

    The radial coefficients are ``radial * radial_scale``: the scale makes every polynomial equally
    large over the pairs of the training data, so one learning rate fits all. With a type embedding
    ``radial`` stands between components of the embedding instead of species.
    """

    def __init__(self, spec: PotentialSpec) -> None:
        super().__init__()
        self.spec = spec
        self.grading = None  # active sets of the training set: mtp.grade.Grading
        n_species = len(spec.species)
        self.embedding = None
        if spec.embedding is not None:
            self.embedding = TypeEmbedding(
                n_species, spec.embedding.neuron, spec.embedding.timestep
            )
        kinds = n_species if self.embedding is None else 1 + self.embedding.width
        n_radial = max(table.n_radial for table in (self.table, *self.tables.values()))
        shape = (kinds, kinds, n_radial, spec.n_q)
        self.radial = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("radial_scale", torch.ones(spec.n_q, dtype=torch.float64))
        self.heads = Heads(
            {
                head.name: _KINDS[head.kind].module(
                    spec, head, self.embedding if head.embedded else None
                )
                for head in spec.heads
            }
        )
        _share_layers(spec.heads, self.heads)

    @cached_property
    def table(self) -> MomentTable:
        """The moment table of the invariants."""
        return moment_table(self.spec.moments)

    @cached_property
    def tables(self) -> dict[str, MomentTable]:
        """Head → its moment table: for energies ``table``, for tensors with covariants."""
        return {head.name: _KINDS[head.kind].table(self.spec, head) for head in self.spec.heads}

    @cached_property
    def basis(self) -> Basis:
        """The table and radial basis as the kernels know them."""
        return register_basis(self.table, self.spec.radial)

    @cached_property
    def bases(self) -> dict[str, Basis]:
        """Head → its table and the radial basis as the kernels know them."""
        return {name: register_basis(t, self.spec.radial) for name, t in self.tables.items()}

    @property
    def kernel(self):
        """The kernel that computes invariants on this potential's device."""
        return kernel_for(self.basis.handle, self.radial.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the descriptor and the readouts; shifts and sums of energies are always float64."""
        return self.radial.dtype

    def cast(self, dtype: torch.dtype) -> Potential:
        """The same potential computing in another precision; shifts stay float64."""
        heads = [head for head in self.heads.values() if head.shifts is not None]
        shifts = [head.shifts.data for head in heads]  # exact ones
        self.to(dtype)
        for head, values in zip(heads, shifts, strict=True):
            head.shifts.data = values
        return self

    def groups(self) -> dict[tuple[str | None, str], list[nn.Parameter]]:
        """Parameters that a stage can move: (head or None, "descriptor", "readout", …) → them.

        Parameters of shared layers stand in the group of each head that has them.
        """
        found: dict[tuple[str | None, str], list[nn.Parameter]] = {
            (None, "descriptor"): [self.radial]
        }
        if self.embedding is not None:
            found[None, "type_embedding"] = list(self.embedding.parameters())
        for head, module in self.heads.items():
            named = dict(module.named_parameters())
            shifts = named.pop("shifts", None)
            found[head, "readout"] = list(named.values())
            found[head, "shifts"] = [] if shifts is None else [shifts]
        return found

    def linear_part(self, head: str) -> list[nn.Parameter]:
        """What a stage moves of a readout that it trains without the network.

        A tensor's network is no correction to a linear readout: all of it.
        """
        if self.spec.head(head).kind == "energy":
            return [self.heads[head].last.weight]
        return self.groups()[head, "readout"]

    @property
    def coefficients(self) -> Tensor:
        """Radial coefficients c (S, S, n_radial, n_q), central species first."""
        radial = self.radial
        if self.embedding is not None:
            x = self.embedding.extended()
            half = torch.einsum("jb,abmq->ajmq", x, radial)  # one at a time: S² width, not width²
            radial = torch.einsum("ia,ajmq->ijmq", x, half)
        return radial * self.radial_scale

    def coefficients_for(self, table: MomentTable) -> Tensor:
        """The radial coefficients of the radial functions that a table has."""
        return self.coefficients[:, :, : table.n_radial]

    def add_to_coefficients(self, c_bar: Tensor) -> None:
        """Add to .grad of what the radial coefficients are made of.

        c_bar: gradient by the first of them, (S, S, n, n_q), all radial functions or some.
        """
        c_bar = functional.pad(c_bar, (0, 0, 0, self.radial.shape[2] - c_bar.shape[2]))
        if self.embedding is None:
            add_to_gradient(self.radial, c_bar * self.radial_scale)
            return
        with torch.enable_grad():
            c = self.coefficients
            if c.requires_grad:
                c.backward(c_bar.to(c.dtype))

    @torch.no_grad()
    def invariants(self, batch: Batch) -> Tensor:
        """B (atoms, n_scalars)."""
        return operator.invariants(self.coefficients_for(self.table), batch.pairs, self.basis)

    # --- what heads do: mtp/energy.py, mtp/tensors.py -------------------------------------------

    def predict(self, batch: Batch, head: str = "default") -> Prediction:
        """What a head says of a batch (training phase 1); no graph is kept."""
        return self._kind(head).predict(self, batch, head)

    def backward(self, batch: Batch, head: str, cotangents: dict[str, Tensor]) -> None:
        """Add to .grad the gradient of a loss with these derivatives (training phase 2).

        cotangents: term → derivative by the prediction's values, of their shape.
        """
        self._kind(head).backward(self, batch, head, cotangents)

    def linear_rows(
        self, batch: Batch, head: str, shifts: bool = False, network: bool = True
    ) -> dict[str, Tensor]:
        """Term → (rows, components, n) or (S, n): derivatives by the weights of the last layer.

        With the shifts removed, the prediction is these rows times ``heads[head].weights``, flat.
        Terms of atoms that have no label in the batch may be missing.
        shifts: columns for the head's shifts follow, where it has any.
        network: False for an energy's network: ``linear_weights`` alone.
        """
        return self._kind(head).linear_rows(self, batch, head, shifts, network)

    def fit_scale(self, batch: Batch, head: str) -> None:
        """Set the head's scales so that its predictions are as large as the labels of a batch."""
        self._kind(head).fit_scale(self, batch, head)

    def _kind(self, head: str) -> ModuleType:
        return _KINDS[self.spec.head(head).kind]


def _share_layers(specs: tuple[HeadSpec, ...], heads: nn.ModuleDict) -> None:
    """Make layers of the same name one layer. Raises InvalidInput when their shapes differ."""
    first: dict[str, tuple[str, nn.Module]] = {}
    for spec in specs:
        head = heads[spec.name]
        if spec.shared and len(spec.shared) != len(spec.hidden) + 1:
            raise InvalidInput(
                f"head {spec.name}: {len(spec.shared)} layer names for {len(spec.hidden)} hidden "
                "layers and the last one; give one more than hidden layers"
            )
        for k, name in enumerate(spec.shared):
            if name is None:
                continue
            mine = head.last if k == len(spec.hidden) else head.layers[k]
            other, layer = first.setdefault(name, (spec.name, mine))
            shapes = [
                {n: tuple(p.shape) for n, p in one.named_parameters()} for one in (layer, mine)
            ]
            if type(layer) is not type(mine) or shapes[0] != shapes[1]:
                raise InvalidInput(
                    f"layer {name!r} of heads {other} and {spec.name}: shapes {shapes[0]} and "
                    f"{shapes[1]}; layers of one name must be alike"
                )
            if k == len(spec.hidden):
                head.last = layer
            else:
                head.layers[k] = layer
