"""A potential as a model of TorchSim: batched dynamics and relaxations on the device.

Needs the package torch-sim-atomistic (extra `torchsim`). Neighbour lists are TorchSim's linked
cells, kept with a skin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch_sim import SimState
from torch_sim.models.interface import ModelInterface
from torch_sim.neighbors import torch_nl_linked_cell

from mtp.errors import InvalidInput
from mtp.geometry import Batch, Pairs
from mtp.potential import Potential

VOIGT = ((0, 5, 4), (5, 1, 3), (4, 3, 2))


class TorchSimModel(ModelInterface):
    """Energies (S,), forces (atoms, 3), stresses (S, 3, 3) of one head, in eV and Å.

    potential: moved to the device and cast to the dtype. skin: Å; lists are found again when an
    atom moved by half of it or a cell changed, which asks the device once a call. Stresses are
    positive in tension, as ASE's; they are 0 without periodic boundaries.
    """

    def __init__(
        self,
        potential: Potential,
        head: str = "default",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float64,
        skin: float = 0.5,
    ) -> None:
        super().__init__()
        self._device, self._dtype = torch.device(device), dtype
        self._compute_forces = self._compute_stress = True
        self.potential = potential.to(self._device).cast(dtype)
        self.head, self.skin = head, skin
        species = potential.spec.species
        known = torch.full((120,), -1, dtype=torch.int32)
        known[list(species)] = torch.arange(len(species), dtype=torch.int32)
        self._known = known.to(self._device)
        self._voigt = torch.tensor(VOIGT, device=self._device)
        self._list: _List | None = None

    @torch.no_grad()
    def forward(self, state: SimState | dict[str, Tensor], **_: object) -> dict[str, Tensor]:
        """What TorchSim asks of a model."""
        if isinstance(state, dict):
            state = SimState(**state, masses=torch.ones_like(state["atomic_numbers"]))
        if self._list is None or not self._list.holds(state, self.skin):
            species = self._known[state.atomic_numbers]
            if bool((species < 0).any()):
                raise InvalidInput(
                    f"the state has elements that the potential does not know: it knows atomic "
                    f"numbers {self.potential.spec.species}"
                )
            self._list = _List.of(state, species, self.potential.spec.cutoff + self.skin)
        found = self.potential.predict(self._list.batch(state, self._dtype), self.head)
        return {
            "energy": found.energy.to(self._dtype),
            "forces": found.forces.to(self._dtype),
            "stress": found.stress[:, self._voigt].to(self._dtype),
        }


@dataclass(frozen=True, eq=False)
class _List:
    """Pairs of all systems of a state, sorted by centre, and what they were found for."""

    species: Tensor
    start: Tensor
    count: Tensor
    base: Tensor
    centre: Tensor
    neighbour: Tensor  # of all atoms
    image: Tensor  # (pairs, 3) cells away
    incoming: Tensor | None
    positions: Tensor
    cell: Tensor
    numbers: Tensor
    system: Tensor
    sizes: Tensor  # (S,) atoms of each system

    @classmethod
    def of(cls, state: SimState, species: Tensor, cutoff: float) -> _List:
        x, cell, system = state.positions, state.row_vector_cell, state.system_idx
        n = len(x)
        periodic = torch.as_tensor(state.pbc, device=x.device).expand(3)
        boundaries = periodic.expand(len(cell), 3)
        fraction = torch.einsum("ia,iab->ib", x, torch.linalg.inv(cell)[system])
        whole = torch.where(periodic, fraction.floor(), 0.0)
        wrapped = x - torch.einsum("ia,iab->ib", whole, cell[system])
        pairs, _, shifts = torch_nl_linked_cell(
            cutoff, wrapped, cell.reshape(-1, 3), boundaries, system
        )
        order = torch.argsort(pairs[0] * n + pairs[1], stable=True)
        i, j = pairs[:, order]
        edges = torch.searchsorted(i, torch.arange(n + 1, device=x.device))
        count = edges[1:] - edges[:-1]
        ends = torch.sort(j, stable=True)
        both = torch.equal(torch.searchsorted(ends[0], torch.arange(n + 1, device=x.device)), edges)
        begin = torch.searchsorted(system, torch.arange(len(cell) + 1, device=x.device))
        return cls(
            *(species, edges[:-1].contiguous(), count.int(), begin[system].int(), i, j),
            shifts[order] + whole[i] - whole[j],
            ends[1] if both else None,
            *(x.clone(), cell.clone(), state.atomic_numbers.clone(), system.clone()),
            (begin[1:] - begin[:-1]).double(),
        )

    def holds(self, state: SimState, skin: float) -> bool:
        """Whether all pairs within the cutoff are in the list."""
        if state.positions.shape != self.positions.shape or state.cell.shape != self.cell.shape:
            return False
        same = (state.atomic_numbers == self.numbers).all()
        same = same & (state.system_idx == self.system).all()
        moved = (state.positions - self.positions).square().sum(1).max()
        return bool(same & (state.row_vector_cell == self.cell).all() & (4 * moved <= skin**2))

    def batch(self, state: SimState, dtype: torch.dtype) -> Batch:
        """The systems without labels, their volumes those of the cells."""
        x, cell, system = state.positions, state.row_vector_cell, state.system_idx
        shift = torch.einsum("pa,pab->pb", self.image.to(x.dtype), cell[system[self.centre]])
        d = x[self.neighbour] + shift - x[self.centre]
        local = (self.neighbour - self.base[self.centre]).int()
        whole = torch.as_tensor(state.pbc, device=x.device).all()
        real = {"dtype": torch.float64, "device": x.device}
        return Batch(
            Pairs(
                *(self.species, self.start, self.count, self.base),
                *(local, d.to(dtype), self.incoming),
            ),
            structure=system,
            atoms_per_structure=self.sizes,
            volume=torch.where(whole, torch.linalg.det(cell).abs(), 0.0).to(**real),
            weight=torch.ones(len(cell), **real),
            indices=np.arange(len(cell)),
            labels={},
            present={},
        )
