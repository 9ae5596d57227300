"""The ASE calculator: the C++ kernel on the CPU, Potential.predict elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from ase.atoms import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.data import chemical_symbols

from mtp.errors import InvalidInput
from mtp.geometry import Batch, Pairs
from mtp.grade import grade_atoms
from mtp.kernels.choose import device_for, kernel_name
from mtp.mlip_import import load_potential
from mtp.neighbours import Find, Neighbours, VerletList
from mtp.potential import Potential
from mtp.terms import PREDICTED

if TYPE_CHECKING:
    from mtp.kernels.inference import Evaluation, NativeModel

TENSORS = {"dipole": [0, 1, 2], "polarizability": [[0, 5, 4], [5, 1, 3], [4, 3, 2]]}
"""Where the components of a tensor stand among those that its head predicts."""

DTYPES = {"float64": torch.float64, "float32": torch.float32}


class MTPCalculator(Calculator):
    """Energy, energies, forces (eV, eV/Å) and stress (eV/Å³, positive = tension) of a potential.

    Also dipole (3,) in e·Å and polarizability (3, 3) in Å³ where the model has heads for them.
    model: a model file, a .mtp file or a Potential. head: which heads of a multi-task model, one
    name or several; may be left out where there is one of a kind. device: "auto", "cpu" or "cuda".
    dtype: "float64" or "float32".
    grade: compute extrapolation grades at every call; without it they are computed when asked for.
    skin: Å; the neighbour list is found again when an atom has moved by half of it, not counting
    what it moves with the cell; a strain of the cell uses up some of the skin.

    grades: (atoms,) of a model with active sets (mtp/grade.py), and grade, the largest of them;
    otherwise PropertyNotImplementedError.

    The stress is there for three periodic directions only; otherwise ASE's
    PropertyNotImplementedError. Raises InvalidInput for elements that the potential does not know.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "dipole",
        "polarizability",
        "grade",
        "grades",
    ]
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        model: str | Path | Potential,
        head: str | Sequence[str] | None = None,
        device: str = "auto",
        dtype: str = "float64",
        skin: float = 0.5,
        grade: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dtype not in DTYPES:
            raise InvalidInput(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.device = device_for(device)
        self.dtype = DTYPES[dtype]
        potential = _potential(model)
        self.heads = _heads(potential, head)
        self.grade = grade
        if grade and potential.grading is None:
            raise InvalidInput("grade: the model has no active sets; `mtp grade` adds them")
        self.potential = potential.to(self.device).cast(self.dtype)
        self._lookup = np.full(len(chemical_symbols) + 1, -1, dtype=np.int32)
        self._lookup[list(potential.spec.species)] = np.arange(len(potential.spec.species))
        self._numbers = self._species_now = np.zeros(0, np.int32)
        self._native = self._native_model()
        self.list = VerletList(potential.spec.cutoff, skin, _search(self.device))

    def _native_model(self) -> NativeModel | None:
        """The energy head in the C++ kernel, where that is the kernel to use."""
        if kernel_name(self.device) != "cpu" or "energy" not in self.heads:
            return None
        from mtp.kernels.inference import NativeModel

        return NativeModel.of(self.potential, self.heads["energy"])

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: what lives in the C++ kernel and its registry is made again."""
        potential = (self.potential.spec, self.potential.state_dict(), self.potential.grading)
        return {**self.__dict__, "_native": None, "potential": potential}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        spec, values, grading = state["potential"]
        self.potential = Potential(spec).to(self.device).cast(self.dtype)
        self.potential.load_state_dict(values)
        self.potential.grading = grading
        self._native = self._native_model()

    def check_state(self, atoms: Atoms, tol: float | None = None) -> list[str]:
        """What has changed, compared exactly: ASE's tolerance takes longer than a small step."""
        return super().check_state(atoms, tol=tol)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        species = self._species(self.atoms.numbers)
        neighbours = self.list.neighbours(self.atoms)
        wanted = set(properties or ["energy"])
        self.results = {}
        if "energy" in self.heads:
            self.results = self._energy(species, neighbours, wanted)
        for kind in wanted & TENSORS.keys():
            self.results[kind] = self._tensor(kind, species, neighbours)

    def _energy(
        self, species: np.ndarray, neighbours: Neighbours, wanted: set[str]
    ) -> dict[str, Any]:
        """What follows from the energy head."""
        atoms = self.atoms
        volume = abs(np.linalg.det(atoms.cell.array)) if atoms.pbc.all() else 0.0
        asked = self.grade or not {"grade", "grades"}.isdisjoint(wanted)
        graded = asked and self.potential.grading is not None
        evaluate = self._predict if self._native is None else self._compute
        found = evaluate(atoms.positions, species, neighbours, graded)
        energy, energies, forces, virial = found.energy, found.energies, found.forces, found.virial
        results = {
            "energy": energy,
            "free_energy": energy,
            "energies": energies,
            "forces": forces,
        }
        if volume > 0:
            results["stress"] = virial / volume
        if found.grades is not None:
            results["grades"] = found.grades
            results["grade"] = float(found.grades.max(initial=0.0))
        return results

    def _tensor(self, kind: str, species: np.ndarray, neighbours: Neighbours) -> np.ndarray:
        """The dipole or polarizability. Raises PropertyNotImplementedError, InvalidInput."""
        head = self.heads.get(kind)
        if head is None:
            raise _no_head(self.potential, kind)
        batch = self._batch(species, neighbours, neighbours.displacements(self.atoms.positions))
        values = self.potential.predict(batch, head).values[kind][0].cpu().numpy()
        if not np.isfinite(values).all():
            raise InvalidInput(f"the {kind} is not finite: atoms coincide, or the model is damaged")
        return values[TENSORS[kind]]

    def _compute(
        self, positions: np.ndarray, species: np.ndarray, neighbours: Neighbours, graded: bool
    ) -> Evaluation:
        """Energy (eV), energies (atoms,), forces (atoms, 3), virial (6,), by the C++ kernel."""
        single = self.dtype == torch.float32
        return self._native.compute(neighbours, species, positions, single, graded)

    def _predict(
        self, positions: np.ndarray, species: np.ndarray, neighbours: Neighbours, graded: bool
    ) -> Evaluation:
        """The same by torch, with the kernel of the device."""
        from mtp.kernels.inference import Evaluation

        batch = self._batch(species, neighbours, neighbours.displacements(positions))
        predicted = self.potential.predict(batch, self.heads["energy"])
        energy = float(predicted.energy[0])
        if not np.isfinite(energy):
            raise InvalidInput("the energy is not finite: atoms coincide, or the model is damaged")
        arrays = predicted.energies, predicted.forces, predicted.stress[0]  # of a volume of 1
        grades = grade_atoms(self.potential, batch) if graded else None
        return Evaluation(energy, *(array.double().cpu().numpy() for array in arrays), grades)

    def _species(self, numbers: np.ndarray) -> np.ndarray:
        """(atoms,) indices into the potential's species; the same array for the same numbers."""
        if not np.array_equal(numbers, self._numbers):
            self._species_now, self._numbers = self._look_up(numbers), numbers.copy()
        return self._species_now

    def _look_up(self, numbers: np.ndarray) -> np.ndarray:
        species = self._lookup[numbers]
        if (species < 0).any():
            missing = ", ".join(sorted({chemical_symbols[z] for z in numbers[species < 0]}))
            known = ", ".join(chemical_symbols[z] for z in self.potential.spec.species)
            raise InvalidInput(f"element {missing} is not in the potential, which knows {known}")
        return species

    def _batch(
        self, species: np.ndarray, neighbours: Neighbours, displacements: np.ndarray
    ) -> Batch:
        """One structure of volume 1 without labels."""
        n = len(species)

        def tensor(values: Any, dtype: torch.dtype) -> torch.Tensor:
            return torch.as_tensor(values, device=self.device).to(dtype)

        real = torch.float64
        return Batch(
            Pairs(
                species=tensor(species, torch.int32),
                start=tensor(neighbours.start, torch.int64),
                count=tensor(neighbours.count, torch.int32),
                base=tensor(np.zeros(n), torch.int32),
                neighbour=tensor(neighbours.owner[neighbours.neighbour], torch.int32),
                displacement=tensor(displacements, self.dtype),
            ),
            structure=tensor(np.zeros(n), torch.int64),
            atoms_per_structure=tensor([n], real),
            volume=tensor([1.0], real),
            weight=tensor([1.0], real),
            indices=np.zeros(1, dtype=np.int64),
            labels={},
            present={},
        )


def _search(device: torch.device) -> Find:
    """How neighbours are found: the C++ kernel's way where it is in use."""
    if kernel_name(device) != "cpu":
        return Neighbours.find
    from mtp.kernels.inference import find_neighbours

    return find_neighbours


def _potential(model: str | Path | Potential) -> Potential:
    """A potential of our own: what happens to a given one later does not reach the calculator."""
    if isinstance(model, Potential):
        copy = Potential(model.spec)
        copy.load_state_dict(model.state_dict())
        copy.grading = model.grading
        return copy
    return load_potential(model)


def _heads(potential: Potential, names: str | Sequence[str] | None) -> dict[str, str]:
    """Kind → the head to use: the one that was named, or the only one of its kind.

    Two energy heads of which none was named are an error; of other kinds only when asked for.
    """
    known = potential.spec.head_names
    one_of = f"head must be one of {', '.join(known)} of this potential"
    named = [names] if isinstance(names, str) else list(names or ())
    found: dict[str, str] = {}
    for name in named:
        if name not in known:
            raise InvalidInput(f"{one_of}: it has no {name!r}")
        kind = potential.spec.head(name).kind
        if kind in found:
            raise InvalidInput(f"head: {found[kind]} and {name} both predict {kind}; name one")
        found[kind] = name
    for kind in PREDICTED.keys() - found.keys():
        mine = [head.name for head in potential.spec.heads if head.kind == kind]
        if len(mine) == 1:
            found[kind] = mine[0]
        elif mine and kind == "energy":
            raise InvalidInput(f"{one_of}: it has several and none was named")
    return found


def _no_head(potential: Potential, kind: str) -> Exception:
    mine = [head.name for head in potential.spec.heads if head.kind == kind]
    if mine:
        return InvalidInput(f"{kind}: several heads predict it; name one of {', '.join(mine)}")
    return PropertyNotImplementedError(f"the model has no head that predicts a {kind}")
