"""The potential: descriptor and heads; energies, forces, stresses and the gradient of a loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from mtp.basis.graphs import MomentSpec
from mtp.basis.moment_table import MomentTable, moment_table
from mtp.basis.radial import RadialSpec
from mtp.errors import InvalidInput
from mtp.geometry import Batch
from mtp.heads import EnergyHead, add_to_gradient
from mtp.kernels import operator
from mtp.kernels.choose import Basis, kernel_for, register_basis
from mtp.terms import PREDICTED
from mtp.type_embedding import TypeEmbedding


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


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a head says of a batch; no graph.

    values: term → (S,), (S, components) or (atoms, components), float64, units of mtp/terms.py.
    A stress is 0 where the structure has no volume.  energies: (atoms,) eV, shares of the atoms.
    """

    values: dict[str, Tensor]
    energies: Tensor | None = None

    @property
    def energy(self) -> Tensor:
        return self.values["energy"]

    @property
    def forces(self) -> Tensor:
        return self.values["forces"]

    @property
    def stress(self) -> Tensor:
        return self.values["stress"]


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
        shape = (kinds, kinds, self.table.n_radial, spec.n_q)
        self.radial = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("radial_scale", torch.ones(spec.n_q, dtype=torch.float64))
        self.heads = nn.ModuleDict(
            {
                head.name: EnergyHead(
                    *(n_species, len(self.table.scalars), head.hidden),
                    *(head.activation, head.timestep),
                    self.embedding if head.embedded else None,
                )
                for head in spec.heads
            }
        )
        _share_layers(spec.heads, self.heads)

    @cached_property
    def table(self) -> MomentTable:
        """The moment table of the level."""
        return moment_table(self.spec.moments)

    @cached_property
    def basis(self) -> Basis:
        """The table and radial basis as the kernels know them."""
        return register_basis(self.table, self.spec.radial)

    @property
    def kernel(self):
        """The kernel that computes on this potential's device."""
        return kernel_for(self.basis.handle, self.radial.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the descriptor and the readouts; shifts and sums of energies are always float64."""
        return self.radial.dtype

    def cast(self, dtype: torch.dtype) -> Potential:
        """The same potential computing in another precision; shifts stay float64."""
        shifts = [head.shifts.data for head in self.heads.values()]  # exact ones
        self.to(dtype)
        for head, values in zip(self.heads.values(), shifts, strict=True):
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

    @property
    def coefficients(self) -> Tensor:
        """Radial coefficients c (S, S, n_radial, n_q), central species first."""
        radial = self.radial
        if self.embedding is not None:
            x = self.embedding.extended()
            radial = torch.einsum("ia,jb,abmq->ijmq", x, x, radial)
        return radial * self.radial_scale

    def add_to_coefficients(self, c_bar: Tensor) -> None:
        """Add to .grad of what the radial coefficients are made of, their gradient being c_bar."""
        if self.embedding is None:
            add_to_gradient(self.radial, c_bar * self.radial_scale)
            return
        with torch.enable_grad():
            c = self.coefficients
            if c.requires_grad:
                c.backward(c_bar.to(c.dtype))

    # --- phase 1: values ------------------------------------------------------------------------

    @torch.no_grad()
    def invariants(self, batch: Batch) -> Tensor:
        """B (atoms, n_scalars)."""
        return operator.invariants(self.coefficients, batch.pairs, self.basis)

    @torch.no_grad()
    def predict(self, batch: Batch, head: str = "default") -> Prediction:
        """Energy, forces and stress of a batch; no graph is kept."""
        readout, kernel = self.heads[head], self.kernel
        if kernel.reads_out:
            energies, force, virial = kernel.predict(
                self.coefficients, readout.readout(), batch.pairs
            )
            energies -= readout.offset()[batch.species.long()]
        else:
            energies, force, virial = self._predict(batch, readout)
        energies = energies.double() + readout.shifts[batch.species.long()]
        values = {
            "energy": per_structure(energies, batch),
            "forces": force.double(),
            "stress": per_structure(virial.double(), batch) * _inverse_volume(batch)[:, None],
        }
        return Prediction(values, energies)

    def _predict(self, batch: Batch, readout: EnergyHead) -> tuple[Tensor, Tensor, Tensor]:
        b = operator.invariants(self.coefficients, batch.pairs, self.basis)
        with torch.enable_grad():
            b.requires_grad_()
            energies = readout(b, batch.species)
            (b_bar,) = torch.autograd.grad(energies.sum(), b)
        forces = operator.forces(b_bar, self.coefficients, batch.pairs, self.basis)
        return energies.detach(), *forces

    # --- phase 2: the gradient of a loss --------------------------------------------------------

    def backward(self, batch: Batch, head: str, cotangents: dict[str, Tensor]) -> None:
        """Add to .grad the gradient of a loss with these derivatives by the prediction.

        cotangents: term → derivative by its values, of their shape.
        Source: docs/theory.md, "Training gradient".
        """
        d_energy, d_forces, d_stress = (cotangents[term] for term in PREDICTED["energy"])
        shear = d_stress.new_tensor([1, 1, 1, 0.5, 0.5, 0.5])
        strain = (d_stress * shear * _inverse_volume(batch)[:, None])[batch.structure]
        weight, v = d_energy[batch.structure], d_forces.to(self.dtype)
        readout, strain = self.heads[head], strain.to(self.dtype)
        by_species = torch.zeros_like(readout.shifts).index_add_(0, batch.species.long(), weight)
        add_to_gradient(readout.shifts, by_species)
        if self.kernel.reads_out:
            c_bar, weights_bar = self.kernel.loss_gradient(
                self.coefficients.detach(), readout.readout(), weight, v, strain, batch.pairs
            )
            self.add_to_coefficients(c_bar)
            readout.add_gradient(weights_bar, by_species)
            return
        b, b_dot = operator.tangent(self.coefficients, v, strain, batch.pairs, self.basis)
        if not b.requires_grad:  # the descriptor is frozen
            b.requires_grad_()
        energies = readout(b, batch.species)
        (slope,) = torch.autograd.grad(energies.sum(), b, create_graph=True)
        ((weight * energies).sum() + (slope * b_dot).double().sum()).backward()

    # --- linear parameters ----------------------------------------------------------------------

    @torch.no_grad()
    def linear_rows(self, batch: Batch, head: str) -> dict[str, Tensor]:
        """Derivatives of energy (S, n), forces (atoms, 3, n), stress (S, 6, n) by the last layer.

        With the shifts removed, the prediction is these rows times ``heads[head].last.weight[0]``.
        """
        readout, c = self.heads[head], self.coefficients
        b = operator.invariants(c, batch.pairs, self.basis)
        with torch.enable_grad():
            b.requires_grad_()
            features = readout.features(b, batch.species)
        forces, stress = [], []
        for n in range(features.shape[1]):
            column = torch.zeros_like(features)
            column[:, n] = 1.0
            (b_bar,) = torch.autograd.grad(features, b, column, retain_graph=True)
            force, virial = operator.forces(b_bar, c, batch.pairs, self.basis)
            forces.append(force)
            stress.append(per_structure(virial.double(), batch) * _inverse_volume(batch)[:, None])
        energy = per_structure(features.detach().double(), batch)
        return {
            "energy": energy,
            "forces": torch.stack(forces, -1).double(),
            "stress": torch.stack(stress, -1),
        }


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


def per_structure(values: Tensor, batch: Batch) -> Tensor:
    """Sum of per-atom values over each structure."""
    shape = (batch.n_structures, *values.shape[1:])
    return values.new_zeros(shape).index_add_(0, batch.structure, values)


def _inverse_volume(batch: Batch) -> Tensor:
    return torch.where(batch.volume > 0, 1 / batch.volume, 0.0)
