"""Readouts: from the invariants of an atom to its energy."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EnergyHead(nn.Module):
    """Energies of atoms: species shift plus a linear or neural readout of standardised invariants.

    ``hidden`` empty: e = shift(z) + scale · w·(B/std). Otherwise a network on (B − mean)/std with
    tanh layers, skipping over layers of equal width. mean, std and scale are set once from data.
    """

    def __init__(self, n_species: int, n_scalars: int, hidden: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.hidden = hidden
        widths = [n_scalars, *hidden]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, dtype=torch.float64)
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.last = nn.Linear(widths[-1], 1, bias=False, dtype=torch.float64)
        self.shifts = nn.Parameter(torch.zeros(n_species, dtype=torch.float64))
        for name, value in (
            ("mean", torch.zeros(n_scalars)),
            ("std", torch.ones(n_scalars)),
            ("scale", torch.ones(())),
        ):
            self.register_buffer(name, value.double())

    @property
    def linear(self) -> bool:
        """Whether the readout is linear in the invariants (a classic MTP)."""
        return not self.hidden

    def features(self, b: Tensor) -> Tensor:
        """(atoms, n) what the last linear layer sees, times the energy scale: e = features·w."""
        if self.linear:
            return b * (self.scale / self.std)
        x = (b - self.mean) / self.std
        for layer in self.layers:
            y = torch.tanh(layer(x))
            x = x + y if x.shape[-1] == y.shape[-1] else y
        return x * self.scale

    def forward(self, b: Tensor) -> Tensor:
        """(atoms,) energies without the shifts, in eV."""
        return self.last(self.features(b)).squeeze(-1)
