"""Tensor heads: from the covariants of an atom to its share of a dipole or polarizability."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtp.heads import Head
from mtp.type_embedding import TypeEmbedding

RANK = {"dipole": 1, "polarizability": 2}
UNIT = {"dipole": (0.0,) * 3, "polarizability": (1.0,) * 3 + (0.0,) * 3}
"""The tensor that is the same however it is turned: 0 of rank 1, δ (Voigt) of rank 2."""


class TensorHead(Head):
    """Sums of covariants V_β with weights that are numbers or depend on the invariants B.

    Linear (``hidden`` empty): t = scale · (δ Σ_α w_α B_α/std_α + Σ_β w_β V_β/size_β). Gated: with
    x(B) what the last weights see (`Head`), and a 1 behind it,
    t = scale · (δ w_0·[x(B) − x(0)] + Σ_β (w_β·x(B)) V_β/size_β). The parts with the unit tensor δ
    belong to polarizabilities only, as do the isotropic ``shifts`` of the species: an isolated atom
    has its shift, and no dipole. selected: for each species whether its atoms contribute. mean,
    std, size and scale are set once from data; ``step`` is as in `EnergyHead`.
    """

    def __init__(
        self,
        kind: str,
        selected: Sequence[bool],
        n_invariants: int,
        n_tensors: int,
        hidden: tuple[int, ...] = (),
        activation: str = "tanh",
        timestep: bool = False,
        embedding: TypeEmbedding | None = None,
    ) -> None:
        super().__init__(len(selected), n_invariants, hidden, activation, timestep, embedding)
        unit = torch.tensor(UNIT[kind], dtype=torch.float64)
        self.isotropic = bool(unit.any())
        self.register_buffer("unit", unit, persistent=False)
        self.register_buffer("selected", torch.tensor(list(selected)), persistent=False)
        self.register_buffer("size", torch.ones(n_tensors, dtype=torch.float64))
        if hidden:
            shape = (self.n_features + 1, self.isotropic + n_tensors)
        else:
            shape = (self.isotropic * n_invariants + n_tensors, 1)
        self.last = nn.Linear(*shape, bias=False, dtype=torch.float64)
        self.shifts = None
        if self.isotropic:
            self.shifts = nn.Parameter(torch.zeros(len(selected), dtype=torch.float64))

    @property
    def weights(self) -> Tensor:
        """What `features` are multiplied by, once flat."""
        return self.last.weight

    linear_weights = weights

    def forward(self, rows: Tensor, species: Tensor) -> Tensor:
        """(atoms, components) in float64, shifts included; e·Å or Å³.

        rows: (atoms, n) the outputs of the head's moment table.
        """
        species = species.long()
        b, v = self._parts(rows)
        if self.linear:
            found = self._linear(b, v) @ self.last.weight[0]
        else:
            x, isolated = self._with_one(b, species)
            found = (self._with_unit(v) * self.last(x)[:, None]).sum(-1)
            found = found - self.unit * (isolated @ self.last.weight[0])[:, None]
        found = (found * (self.scale * self.step)).double()
        if self.shifts is not None:
            found = found + self.shifts[species][:, None] * self.unit.double()
        return found * self.selected[species][:, None]

    def features(self, rows: Tensor, species: Tensor) -> Tensor:
        """(atoms, components, n) what the flat last weights are applied to: t = features·w."""
        species = species.long()
        b, v = self._parts(rows)
        if self.linear:
            found = self._linear(b, v)
        else:
            x, isolated = self._with_one(b, species)
            found = self._with_unit(v)[..., None] * x[:, None, None]
            found[:, :, 0] -= self.unit[None, :, None] * isolated[:, None]
            found = found.flatten(2)
        return found * (self.scale * self.step) * self.selected[species][:, None, None]

    @torch.no_grad()
    def measure(self, rows: Tensor, species: Tensor) -> None:
        """Set ``size``, the root mean square of each covariant's components over the atoms."""
        chosen = rows[self.selected[species.long()], len(self.mean) :].double()
        v = chosen.reshape(len(chosen), len(self.size), len(self.unit))
        size = v.square().mean((0, 2)).sqrt() if len(v) else torch.zeros_like(self.size)
        self.size.copy_(torch.where(size > 0, size, torch.ones_like(size)))

    def shift_rows(self, species: Tensor) -> Tensor:
        """(atoms, components, n_species) derivatives by the shifts; (…, 0) for a dipole."""
        species = species.long()
        if self.shifts is None:
            return self.mean.new_zeros(len(species), len(self.unit), 0).double()
        mine = nn.functional.one_hot(species, len(self.selected)) * self.selected
        return self.unit.double()[None, :, None] * mine[:, None]

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Invariants (atoms, n) and covariants of unit size (atoms, components, n_tensors)."""
        n = len(self.mean)
        v = rows[:, n:].reshape(len(rows), len(self.size), len(self.unit))
        return rows[:, :n], v.transpose(1, 2) / self.size

    def _linear(self, b: Tensor, v: Tensor) -> Tensor:
        if not self.isotropic:
            return v
        return torch.cat([self.unit[None, :, None] * (b / self.std)[:, None], v], -1)

    def _with_unit(self, v: Tensor) -> Tensor:
        """The tensors that gates multiply: δ, where there is one, and the covariants."""
        if not self.isotropic:
            return v
        return torch.cat([self.unit[None, :, None].expand(len(v), -1, 1), v], -1)

    def _with_one(self, b: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """(atoms, width + 1) what the gates are linear in, and that of isolated atoms."""
        found = (self._hidden(b, species), self._isolated()[species])
        return tuple(torch.cat([x, x.new_ones(len(x), 1)], 1) for x in found)
