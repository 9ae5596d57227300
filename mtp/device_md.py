"""Molecular dynamics of one structure that stays on the GPU: atoms, lists and potential.

`mtp.md` moves atoms by ASE and any calculator; this is for many atoms, where copies and Python
between steps would cost more than the step. A step is one CUDA graph.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from ase import Atoms, units
from ase.geometry import complete_cell
from torch import Tensor

from mtp.device_list import DeviceList
from mtp.errors import InvalidInput
from mtp.geometry import Batch
from mtp.kernels.choose import kernel_name
from mtp.kernels.gpu.graph import Graph
from mtp.potential import Potential

LONGEST = 100  # steps between two lists at most
WASTED, WELL_USED = 0.3, 0.45  # of the skin: lists are found less often below, more often above


class DeviceDynamics:
    """Velocity Verlet, or Langevin dynamics where a temperature is given.

    potential: on the device and in the precision that forces are to be computed in; positions,
    velocities and their updates are float64. atoms: taken once; `write` gives them back.
    timestep: fs. temperature: K. friction: 1/fs. skin: Å.

    `run` finds lists in between and never waits for the GPU within a step. It looks afterwards
    whether atoms moved by more than half the skin, and then does the steps again with newer lists.
    """

    def __init__(
        self,
        potential: Potential,
        atoms: Atoms,
        timestep: float = 1.0,
        temperature: float | None = None,
        friction: float = 0.01,
        head: str = "default",
        skin: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.potential, self.head = potential, head
        self.device = potential.radial.device
        self.dt = timestep * units.fs

        def there(values, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.as_tensor(np.asarray(values)).to(self.device, dtype)

        self.x, self.v = there(atoms.positions).contiguous(), there(atoms.get_velocities())
        self.mass = there(atoms.get_masses())[:, None]
        cell, spec = complete_cell(atoms.cell.array), potential.spec
        species = there(_species(atoms, spec.species), torch.int32)
        self.list = DeviceList(species, cell, atoms.pbc, spec.cutoff, skin)
        self.skin = skin
        self._batch = self._without_pairs(float(abs(np.linalg.det(cell))) * bool(atoms.pbc.all()))
        self.random = torch.Generator(self.device).manual_seed(seed)
        self.kept = np.exp(-friction / units.fs * self.dt)
        self.noise: Tensor | None = None
        if temperature is not None:
            self.noise = torch.sqrt((1 - self.kept**2) * units.kB * temperature / self.mass)
        self.energy = torch.zeros(1, dtype=torch.float64, device=self.device)
        self.stress = torch.zeros(1, 6, dtype=torch.float64, device=self.device)
        self.forces = torch.zeros_like(self.x)
        self.furthest = torch.zeros((), dtype=torch.float64, device=self.device)
        self.steps, self.interval = 0, 10
        self._records = self.device.type == "cuda" and kernel_name(self.device) == "cuda"
        self._graph: Graph | None = None
        self._graph_for: Tensor | None = None
        self._find()
        self._evaluate()

    def run(self, steps: int) -> None:
        """Go on by so many steps. Raises InvalidInput when an atom moves too far in one step."""
        last = self.steps + steps
        while self.steps < last:
            n = min(self.interval, last - self.steps)
            before, random = [value.clone() for value in self._state()], self.random.get_state()
            self.furthest.zero_()
            for _ in range(n):
                self._advance()
            furthest = float(self.furthest)  # the one place where the host waits
            if not furthest <= self.skin / 2:
                if n == 1:
                    raise InvalidInput(
                        f"step {self.steps + 1}: an atom moved by {furthest:.3g} Å in one step; "
                        "the simulation exploded, or the skin is too thin for the time step"
                    )
                for value, old in zip(self._state(), before, strict=True):
                    value.copy_(old)
                self.random.set_state(random)
                self.interval = n // 2
                continue
            self.steps += n
            if n == self.interval and furthest < WASTED * self.skin:
                self.interval = min(LONGEST, self.interval + max(1, self.interval // 4))
            elif furthest > WELL_USED * self.skin:
                self.interval = max(1, self.interval - max(1, self.interval // 8))
            self._find()

    @property
    def temperature(self) -> float:
        """K, from the kinetic energy."""
        kinetic = 0.5 * float((self.mass * self.v.square()).sum())
        return 2 * kinetic / (3 * len(self.x) * units.kB)

    @property
    def total_energy(self) -> float:
        """Potential and kinetic energy in eV."""
        return float(self.energy[0]) + 0.5 * float((self.mass * self.v.square()).sum())

    def write(self, atoms: Atoms) -> None:
        """Put positions, wrapped into the cell, and velocities into the atoms."""
        atoms.positions = self.x.cpu().numpy()
        atoms.set_velocities(self.v.cpu().numpy())

    def step(self) -> None:
        """One time step with the list at hand."""
        self.v.add_(self.forces / self.mass, alpha=self.dt / 2)
        if self.noise is None:
            self.x.add_(self.v, alpha=self.dt)
        else:  # BAOAB: Leimkuhler & Matthews, doi:10.1093/amrx/abs010
            self.x.add_(self.v, alpha=self.dt / 2)
            draw = torch.empty_like(self.v).normal_(generator=self.random)
            self.v.mul_(self.kept).addcmul_(self.noise.expand_as(draw), draw)
            self.x.add_(self.v, alpha=self.dt / 2)
        self._evaluate()
        self.v.add_(self.forces / self.mass, alpha=self.dt / 2)
        torch.maximum(self.furthest, self.list.moved(self.x), out=self.furthest)

    def _state(self) -> tuple[Tensor, ...]:
        return self.x, self.v, self.forces, self.energy, self.stress

    def _find(self) -> None:
        """Wrap the atoms into the cell and find their neighbours."""
        fraction = self.x @ self.list.inverse
        periodic = torch.from_numpy(self.list.pbc).to(self.device)
        self.x.sub_(torch.where(periodic, fraction.floor(), 0.0) @ self.list.cell)
        self.list.build(self.x)

    def _evaluate(self) -> None:
        batch = replace(self._batch, pairs=self.list.pairs(self.x, self.potential.dtype))
        predicted = self.potential.predict(batch, self.head)
        self.energy.copy_(predicted.energy)
        self.forces.copy_(predicted.forces)
        self.stress.copy_(predicted.stress)

    def _advance(self) -> None:
        """One step; on a GPU a replay of the graph of it, recorded once for the list's arrays."""
        if not self._records:
            self.step()
            return
        if self._graph is None or self._graph_for is not self.list.neighbour:
            self._graph, self._graph_for = None, self.list.neighbour  # frees the old one's memory
            self._graph = Graph()
            generator = None if self.noise is None else self.random
            self._graph.record(self.step, (*self._state(), self.furthest), generator)
        self._graph.replay()

    def _without_pairs(self, volume: float) -> Batch:
        """One structure without labels."""

        def whole(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=self.device)

        return Batch(
            pairs=None,
            structure=torch.zeros(len(self.x), dtype=torch.int64, device=self.device),
            atoms_per_structure=whole([len(self.x)]),
            volume=whole([volume]),
            weight=whole([1.0]),
            indices=np.zeros(1, dtype=np.int64),
            labels={},
            present={},
        )


def _species(atoms: Atoms, known: tuple[int, ...]) -> np.ndarray:
    """Indices into the potential's species; InvalidInput for elements that it does not know."""
    missing = sorted(set(atoms.numbers.tolist()) - set(known))
    if missing:
        raise InvalidInput(f"elements of atomic numbers {missing} are not in the potential {known}")
    return np.searchsorted(known, atoms.numbers)
