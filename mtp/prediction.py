"""What a head says of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

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
    """Sum of per-atom values over each structure."""
    shape = (batch.n_structures, *values.shape[1:])
    return values.new_zeros(shape).index_add_(0, batch.structure, values)
