"""What a head says of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import one_hot

from mtp.geometry import Batch


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


def per_structure(values: Tensor, batch: Batch) -> Tensor:
    """Sum of per-atom values over each structure, the same at every call."""
    if values.is_cuda:  # index_add adds there in any order
        from mtp.kernels.cuda import by_structure

        return by_structure(values, batch.structure, batch.n_structures).to(values.dtype)
    shape = (batch.n_structures, *values.shape[1:])
    return values.new_zeros(shape).index_add_(0, batch.structure, values)


def per_species(values: Tensor, batch: Batch, n_species: int) -> Tensor:
    """(n_species,) sum of per-atom values (atoms,) over each species, the same at every call."""
    species = batch.species.long()
    if values.is_cuda:
        return values @ one_hot(species, n_species).to(values.dtype)
    return values.new_zeros(n_species).index_add_(0, species, values)
