"""Readouts: from the invariants of an atom to its energy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Readout:
    """An energy readout as numbers, for kernels that evaluate it themselves.

    x = (B - mean)·inverse_std, then tanh layers of the hidden widths (weights, biases), added to
    their input where the widths are equal, then the last weights without bias, times scale.
    """

    hidden: tuple[int, ...]
    weights: Tensor  # flat: per layer weights (out, in), biases; then the last weights
    mean: Tensor
    inverse_std: Tensor
    scale: float


class EnergyHead(nn.Module):
    """Energies of atoms: species shift plus a linear or neural readout of standardised invariants.

    ``hidden`` empty: e = shift(z) + scale · w·(B/std). Otherwise a network on (B − mean)/std with
    tanh layers, skipping over layers of equal width, minus its value for B = 0: an isolated atom
    has its shift. mean, std and scale are set once from data.
    Weights and biases are ``step`` times their parameters: the size of an optimiser's unit step.
    """

    def __init__(self, n_species: int, n_scalars: int, hidden: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.hidden = hidden
        widths = [n_scalars, *hidden]
        self.layers = nn.ModuleList(
            nn.Linear(a, b, dtype=torch.float64) for a, b in pairwise(widths)
        )
        self.last = nn.Linear(widths[-1], 1, bias=False, dtype=torch.float64)
        self.shifts = nn.Parameter(torch.zeros(n_species, dtype=torch.float64))
        for name, value in (
            ("mean", torch.zeros(n_scalars)),
            ("std", torch.ones(n_scalars)),
            ("scale", torch.ones(())),
            ("step", torch.ones(())),
        ):
            self.register_buffer(name, value.double())

    @property
    def linear(self) -> bool:
        """Whether the readout is linear in the invariants (a classic MTP)."""
        return not self.hidden

    def features(self, b: Tensor) -> Tensor:
        """(atoms, n) what the last weights are applied to, in eV: e = features·w."""
        if self.linear:
            return b * (self.scale * self.step / self.std)
        return (self._hidden(b) - self._hidden(torch.zeros_like(b[:1]))) * (self.scale * self.step)

    def _hidden(self, b: Tensor) -> Tensor:
        x = (b - self.mean) / self.std
        for layer in self.layers:
            y = torch.tanh(layer(x) * self.step)
            x = x + y if x.shape[-1] == y.shape[-1] else y
        return x

    def offset(self) -> Tensor:
        """What `readout` gives for B = 0, in eV; it is not part of the energy."""
        if self.linear:
            return torch.zeros_like(self.scale)
        x = self._hidden(torch.zeros_like(self.mean)[None])
        return self.last(x)[0, 0] * (self.scale * self.step)

    def readout(self) -> Readout:
        """The readout as numbers; it does not know of `offset`."""
        mean = torch.zeros_like(self.mean) if self.linear else self.mean
        weights = torch.cat([p.detach().reshape(-1) for p in self._readout_parameters()])
        return Readout(self.hidden, weights * self.step, mean, 1 / self.std, float(self.scale))

    def add_gradient(self, weights_bar: Tensor, energy_weight: Tensor) -> None:
        """Add to the parameters' .grad.

        weights_bar: gradient by the flat weights of `readout`.  energy_weight: sum over the atoms
        of the derivative by their energies, each of which lacks `offset`.
        """
        parameters = self._readout_parameters()
        parts = torch.split(weights_bar * self.step, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            add_to_gradient(parameter, part.reshape(parameter.shape))
        if not self.linear and any(p.requires_grad for p in parameters):
            with torch.enable_grad():
                (-energy_weight * self.offset()).backward()

    def _readout_parameters(self) -> list[nn.Parameter]:
        return [p for layer in (*self.layers, self.last) for p in layer.parameters()]

    def forward(self, b: Tensor) -> Tensor:
        """(atoms,) energies without the shifts, in eV."""
        return self.last(self.features(b)).squeeze(-1)


def add_to_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """parameter.grad += gradient, unless the parameter is frozen."""
    if not parameter.requires_grad:
        return
    gradient = gradient.to(parameter.dtype)
    parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad + gradient
