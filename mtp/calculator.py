"""The ASE calculator, with a neighbour list that is kept while atoms stay within its skin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase.atoms import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import chemical_symbols

from mtp.errors import InvalidInput
from mtp.geometry import Batch, Pairs, neighbour_pairs
from mtp.mlip_import import load_mtp
from mtp.model_file import load_model
from mtp.potential import Potential, Prediction
from mtp.structure import Structure

DTYPES = {"float64": torch.float64, "float32": torch.float32}


class MTPCalculator(Calculator):
    """Energy, energies, forces (eV, eV/Å) and stress (eV/Å³, positive = tension) of a potential.

    model: a model file, a .mtp file or a Potential. head: which head of a multi-task model; may be
    left out where there is one. device: "auto", "cpu" or "cuda". dtype: "float64" or "float32".
    skin: Å; the neighbour list is found again when an atom has moved by half of it, or the cell
    has changed.

    The stress is there for three periodic directions only; otherwise ASE's
    PropertyNotImplementedError. Raises InvalidInput for elements that the potential does not know.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    def __init__(
        self,
        model: str | Path | Potential,
        head: str | None = None,
        device: str = "auto",
        dtype: str = "float64",
        skin: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dtype not in DTYPES:
            raise InvalidInput(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.device = _device(device)
        self.dtype = DTYPES[dtype]
        potential = _potential(model)
        self.head = _head(potential, head)
        self.potential = potential.to(self.device).cast(self.dtype)
        self.list = VerletList(potential.spec.cutoff, skin)
        self._lookup = np.full(len(chemical_symbols) + 1, -1, dtype=np.int32)
        self._lookup[list(potential.spec.species)] = np.arange(len(potential.spec.species))

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        predicted = self._evaluate(self.atoms)
        energy = float(predicted.energy[0])
        if not np.isfinite(energy):
            raise InvalidInput("the energy is not finite: atoms coincide, or the model is damaged")
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": predicted.energies.double().cpu().numpy(),
            "forces": predicted.forces.double().cpu().numpy(),
        }
        if self.atoms.pbc.all():
            self.results["stress"] = predicted.stress[0].double().cpu().numpy()

    def _evaluate(self, atoms: Atoms) -> Prediction:
        """Everything at once; the one place that knows how the potential is evaluated."""
        species = self._species(atoms.numbers)
        displacements = self.list.displacements(atoms)
        return self.potential.predict(self._batch(atoms, species, displacements), self.head)

    def _species(self, numbers: np.ndarray) -> np.ndarray:
        species = self._lookup[numbers]
        if (species < 0).any():
            missing = ", ".join(sorted({chemical_symbols[z] for z in numbers[species < 0]}))
            known = ", ".join(chemical_symbols[z] for z in self.potential.spec.species)
            raise InvalidInput(f"element {missing} is not in the potential, which knows {known}")
        return species

    def _batch(self, atoms: Atoms, species: np.ndarray, displacements: np.ndarray) -> Batch:
        """One structure without labels."""
        n = len(atoms)
        volume = atoms.get_volume() if atoms.pbc.all() else 0.0

        def tensor(values: Any, dtype: torch.dtype) -> torch.Tensor:
            return torch.as_tensor(values, device=self.device).to(dtype)

        real, absent = torch.float64, tensor([False], torch.bool)
        return Batch(
            Pairs(
                species=tensor(species, torch.int32),
                start=tensor(self.list.start, torch.int64),
                count=tensor(self.list.count, torch.int32),
                base=tensor(np.zeros(n), torch.int32),
                neighbour=tensor(self.list.neighbour, torch.int32),
                displacement=tensor(displacements, self.dtype),
            ),
            structure=tensor(np.zeros(n), torch.int64),
            atoms_per_structure=tensor([n], real),
            volume=tensor([volume], real),
            energy=tensor([0.0], real),
            forces=tensor(np.zeros((n, 3)), real),
            stress=tensor(np.zeros((1, 6)), real),
            has_energy=absent,
            has_forces=absent,
            has_stress=absent,
            weight=tensor([1.0], real),
            indices=np.zeros(1, dtype=np.int64),
        )


class VerletList:
    """Neighbours within cutoff + skin, kept while they are sure to hold all within the cutoff.

    count, start: (atoms,) an atom's pairs are rows start … start + count. neighbour: (pairs,).
    offset: (pairs, 3) in Å, what periodicity adds to the neighbour's position. builds: how often
    the list was found.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        if not (np.isfinite(skin) and skin >= 0):
            raise InvalidInput(f"skin must be 0 or more Å, got {skin}")
        self.cutoff = cutoff
        self.skin = skin
        self.builds = 0
        self._built_for: Atoms | None = None

    def displacements(self, atoms: Atoms) -> np.ndarray:
        """(pairs, 3) in Å from every atom to its neighbours, for the positions as they are now."""
        if not self._holds(atoms):
            self._build(atoms)
        found = np.take(atoms.positions, self.neighbour, axis=0)
        found -= np.repeat(atoms.positions, self.count, axis=0)
        found += self.offset
        return found

    def _holds(self, atoms: Atoms) -> bool:
        before = self._built_for
        if (
            before is None
            or len(before) != len(atoms)
            or (before.pbc != atoms.pbc).any()
            or (before.cell.array != atoms.cell.array).any()
        ):
            return False
        moved = atoms.positions - before.positions
        return bool(4 * np.einsum("ij,ij->i", moved, moved).max(initial=0.0) <= self.skin**2)

    def _build(self, atoms: Atoms) -> None:
        positions, cell = atoms.positions, atoms.cell.array
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            raise InvalidInput("positions or cell are not finite; the simulation has exploded")
        structure = Structure(atoms.numbers, positions, cell, atoms.pbc)
        self.count, self.neighbour, vectors = neighbour_pairs(structure, self.cutoff + self.skin)
        self.start = np.cumsum(self.count, dtype=np.int64) - self.count
        self.offset = vectors - positions[self.neighbour] + np.repeat(positions, self.count, axis=0)
        self._built_for = Atoms(positions=positions, cell=cell, pbc=atoms.pbc)
        self.builds += 1


def _potential(model: str | Path | Potential) -> Potential:
    """A potential of our own: what happens to a given one later does not reach the calculator."""
    if isinstance(model, Potential):
        copy = Potential(model.spec)
        copy.load_state_dict(model.state_dict())
        return copy
    return load_mtp(model) if Path(model).suffix in (".mtp", ".almtp") else load_model(model)


def _head(potential: Potential, name: str | None) -> str:
    """The head to use: the only one, or the one that was named."""
    known = potential.spec.heads
    if name is None and len(known) == 1:
        return known[0]
    if name not in known:
        asked = "it has several and none was named" if name is None else f"it has no {name!r}"
        raise InvalidInput(f"head must be one of {', '.join(known)} of this potential: {asked}")
    return name


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise InvalidInput(f"device must be one of auto, cpu, cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("device 'cuda' was asked for, but torch sees none; use 'cpu' or 'auto'")
    return torch.device(name)
