"""Several potentials as one ASE calculator: their mean, and how far they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase.atoms import Atoms
from ase.calculators.calculator import Calculator, all_changes

from mtp.calculator import MTPCalculator
from mtp.errors import InvalidInput

if TYPE_CHECKING:
    from mtp.potential import Potential

MEANS = ("energy", "free_energy", "energies", "forces", "stress")


class CommitteeCalculator(Calculator):
    """Mean energy, energies, forces (eV, eV/Å) and stress (eV/Å³) of potentials.

    deviations: (atoms,) spread of each atom's force over the members, √⟨|F − ⟨F⟩|²⟩ in eV/Å;
    deviation: the largest of them. energy_deviation: standard deviation of the energy, eV/atom.
    Potentials that were trained from different seeds or splits disagree where the data end.
    Source: Zhang et al. (2019), 10.1103/PhysRevMaterials.3.023804.

    models: two or more model files or Potentials; options: those of MTPCalculator, for all.
    """

    implemented_properties: ClassVar[list[str]] = [
        *MEANS,
        "deviation",
        "deviations",
        "energy_deviation",
    ]

    def __init__(self, models: Sequence[str | Path | Potential], **options: Any) -> None:
        super().__init__()
        if len(models) < 2:
            raise InvalidInput(f"a committee needs two or more models, got {len(models)}")
        self.members = [MTPCalculator(model, **options) for model in models]
        first = self.members[0]
        for member in self.members[1:]:
            if member.list.cutoff == first.list.cutoff:
                member.list = first.list  # one search for all

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        for member in self.members:
            member.calculate(self.atoms, properties, system_changes)
        found = [member.results for member in self.members]
        self.results = {
            name: np.mean([one[name] for one in found], axis=0)
            for name in MEANS
            if name in found[0]
        }
        forces = np.array([one["forces"] for one in found])
        off = ((forces - self.results["forces"]) ** 2).sum(axis=2)
        self.results["deviations"] = np.sqrt(off.mean(axis=0))
        self.results["deviation"] = float(self.results["deviations"].max(initial=0.0))
        spread = np.std([one["energy"] for one in found]) / max(len(self.atoms), 1)
        self.results["energy_deviation"] = float(spread)
        for name in ("energy", "free_energy"):
            self.results[name] = float(self.results[name])
